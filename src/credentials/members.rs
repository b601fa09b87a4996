//! As whom a team link acts. A request may choose only what the policy lists; an e-mail address is looked up at Dropbox and
//! taken for the id of its member from then on, for ten minutes. Who may not act as a member does not learn who is one.
//! Settings name members by id as soon as an account is linked that can tell them: an address may be given to somebody else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use dropbox_sdk::types::team::{MembersGetInfoItemV2, MembersGetInfoV2Arg, UserSelectorArg};

use crate::{
    dropbox::{ActAs, Caller, routes},
    fault::{Fault, Reason, Result},
    limits::{MEMBER_LIFE, MEMBER_NAMES_MAX, MEMBERS_ASKED_MAX},
    store::{AccountKind, ActAsMode, Member, Parameters, Settings},
};

/// A member by both names, the address in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    id: Arc<str>,
    email: Arc<str>,
}

const NOT_IN_TEAM: &str = "nobody in the linked team has this e-mail address";

/// Members of one team that were looked up, by either name.
#[derive(Debug, Default)]
pub(super) struct Members {
    known: RwLock<HashMap<String, (Seat, SystemTime)>>,
    /// Held by whoever asks Dropbox.
    asking: tokio::sync::Mutex<()>,
}

/// As whom, as far as it can be said without asking Dropbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The linked account itself.
    Nobody,
    /// Allowed; an e-mail address has yet to become an id.
    Allowed(ActAs),
    /// Allowed only if the member is one of these under its other name.
    If(ActAs, Vec<String>),
}

/// What the request and the policy say.
///
/// # Errors
/// `ACT_AS_NOT_ALLOWED`, `TEAM_LINK_REQUIRED`.
pub(super) fn chosen(parameters: &Parameters, asked: Option<ActAs>) -> Result<Chosen> {
    let settings = &parameters.settings;
    let default = settings.default_act_as.as_ref().map(|member| match member {
        Member::SelectUser(member) => ActAs::User(member.clone()),
        Member::SelectAdmin(member) => ActAs::Admin(member.clone()),
    });
    let Some(asked) = asked else { return Ok(default.map_or(Chosen::Nobody, Chosen::Allowed)) };
    let mut allowed: Vec<String> = match settings.policy.act_as {
        ActAsMode::Listed => settings.policy.act_as_members.clone(),
        ActAsMode::None | ActAsMode::Any => Vec::new(),
    };
    // The default is allowed always, in its own way: as user or as administrator.
    allowed.extend(
        default.filter(|default| is_admin(default) == is_admin(&asked)).map(|default| name(&default).to_owned()),
    );
    // An address is the member's it leads to today, so one that is listed is looked up before it is believed.
    let named = !is_email(name(&asked)) && allowed.iter().any(|allowed| allowed == name(&asked));
    let listed = allowed.iter().any(|allowed| is_same(allowed, name(&asked)));
    let by_other_name = allowed.iter().any(|allowed| is_email(allowed) != is_email(name(&asked)));
    if !named && settings.policy.act_as != ActAsMode::Any && !by_other_name && !listed {
        return Err(not_allowed(parameters));
    }
    if settings.account_kind != AccountKind::Team {
        let message = format!("{} is linked to a user; only a team link acts as a member", parameters.id);
        return Err(Fault::new(Reason::TeamLinkRequired, message).fact("field", "context.act_as"));
    }
    match named || settings.policy.act_as == ActAsMode::Any {
        true => Ok(Chosen::Allowed(asked)),
        false => Ok(Chosen::If(asked, allowed)),
    }
}

impl Members {
    /// As whom, by member id. `caller` calls without a member, and only if Dropbox has to be asked.
    ///
    /// # Errors
    /// `ACT_AS_INVALID` for an address that is nobody's in the team, `ACT_AS_NOT_ALLOWED`, and what asking gives
    /// (`SCOPE_MISSING` without `members.read`).
    pub async fn resolve(
        &self,
        parameters: &Parameters,
        chosen: Chosen,
        now: SystemTime,
        caller: impl FnOnce() -> Caller,
    ) -> Result<Option<ActAs>> {
        match chosen {
            Chosen::Nobody => Ok(None),
            Chosen::Allowed(asked) if !is_email(name(&asked)) => Ok(Some(asked)),
            Chosen::Allowed(asked) => match self.seat(name(&asked), now, caller).await? {
                Some(seat) => Ok(Some(with_id(&asked, &seat.id))),
                None => Err(nobody(NOT_IN_TEAM, "NOT_FOUND")),
            },
            Chosen::If(asked, allowed) => {
                let Some(seat) = self.seat(name(&asked), now, caller).await? else {
                    let listed = allowed.iter().any(|entry| is_same(entry, name(&asked)));
                    return Err(if listed { nobody(NOT_IN_TEAM, "NOT_FOUND") } else { not_allowed(parameters) });
                };
                // By the primary address: another of the member's may be listed for whoever has it now.
                let is_allowed = |entry: &String| is_same(entry, &seat.id) || is_same(entry, &seat.email);
                match allowed.iter().any(is_allowed) {
                    true => Ok(Some(with_id(&asked, &seat.id))),
                    false => Err(not_allowed(parameters)),
                }
            }
        }
    }

    /// The member of this id or address; `None` if the team has none.
    async fn seat(&self, named: &str, now: SystemTime, caller: impl FnOnce() -> Caller) -> Result<Option<Seat>> {
        if is_email(named) && !is_well_formed(named) {
            return Err(nobody("this is no e-mail address and no team member id", "MALFORMED"));
        }
        let key = named.to_lowercase();
        if let Some(seat) = self.remembered(&key, now) {
            return Ok(Some(seat));
        }
        let _turn = self.asking.lock().await;
        if let Some(seat) = self.remembered(&key, now) {
            return Ok(Some(seat));
        }
        let selector = match is_email(named) {
            true => UserSelectorArg::Email(named.to_owned()),
            false => UserSelectorArg::TeamMemberId(named.to_owned()),
        };
        let answer = caller().call(&routes::GET_TEAM_MEMBERS, &MembersGetInfoV2Arg::new(vec![selector])).await?;
        let Some(MembersGetInfoItemV2::MemberInfo(found)) = answer.value.members_info.into_iter().next() else {
            return Ok(None);
        };
        let seat = Seat { id: found.profile.team_member_id.into(), email: found.profile.email.to_lowercase().into() };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() + 3 > MEMBER_NAMES_MAX {
            known.clear();
        }
        // A secondary address finds the member, too, and is not the address told.
        for name in [key, seat.id.to_lowercase(), seat.email.to_string()] {
            known.insert(name, (seat.clone(), now));
        }
        Ok(Some(seat))
    }

    fn remembered(&self, key: &str, now: SystemTime) -> Option<Seat> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (seat, at) = known.get(key)?;
        now.duration_since(*at).is_ok_and(|age| age < MEMBER_LIFE).then(|| seat.clone())
    }
}

/// Addresses that stand for members in settings, in lower case, with the field each stands in.
pub(super) fn addresses(settings: &Settings) -> Vec<(String, String)> {
    let default = settings.default_act_as.as_ref().map(|member| {
        let (Member::SelectUser(named) | Member::SelectAdmin(named)) = member;
        ("application_parameter.default_act_as".to_owned(), named)
    });
    let listed = settings.policy.act_as_members.iter().enumerate();
    let listed = listed.map(|(at, named)| (format!("application_parameter.policy.act_as_members[{at}]"), named));
    let all = default.into_iter().chain(listed).filter(|(_, named)| is_email(named));
    all.map(|(field, named)| (field, named.to_lowercase())).collect()
}

/// Puts ids in the place of addresses, as far as they are known.
pub fn put_ids(settings: &mut Settings, ids: &BTreeMap<String, String>) {
    let put = |named: &mut String| {
        if let Some(id) = ids.get(&named.to_lowercase()) {
            named.clone_from(id);
        }
    };
    if let Some(Member::SelectUser(named) | Member::SelectAdmin(named)) = &mut settings.default_act_as {
        put(named);
    }
    let members = &mut settings.policy.act_as_members;
    members.iter_mut().for_each(put);
    let mut seen = std::collections::HashSet::new();
    members.retain(|member| seen.insert(member.clone()));
}

/// The ids of the members who have these addresses; who is not in the team is not in the answer.
///
/// # Errors
/// What asking Dropbox gives.
pub(super) async fn ids_of(addresses: &[(String, String)], caller: &Caller) -> Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    let good: Vec<&String> = addresses.iter().map(|(_, address)| address).filter(|text| is_well_formed(text)).collect();
    for some in good.chunks(MEMBERS_ASKED_MAX) {
        let selectors = some.iter().map(|address| UserSelectorArg::Email((*address).clone())).collect();
        let answer = caller.call(&routes::GET_TEAM_MEMBERS, &MembersGetInfoV2Arg::new(selectors)).await?;
        for found in answer.value.members_info {
            let MembersGetInfoItemV2::MemberInfo(found) = found else { continue };
            let more = found.profile.secondary_emails.into_iter().flatten().map(|more| more.email);
            for address in std::iter::once(found.profile.email).chain(more) {
                ids.insert(address.to_lowercase(), found.profile.team_member_id.clone());
            }
        }
    }
    Ok(ids)
}

/// # Errors
/// `INVALID_FIELD` naming each field whose address is nobody's.
pub(super) fn require_all(addresses: &[(String, String)], ids: &BTreeMap<String, String>) -> Result<()> {
    let mut missing = addresses.iter().filter(|(_, address)| !ids.contains_key(address));
    let Some((field, _)) = missing.next() else { return Ok(()) };
    let fault = Fault::field(field, "NOT_FOUND", NOT_IN_TEAM);
    Err(missing.fold(fault, |fault, (field, _)| fault.violation(field, "NOT_FOUND", NOT_IN_TEAM)))
}

fn name(act_as: &ActAs) -> &str {
    let (ActAs::User(member) | ActAs::Admin(member)) = act_as;
    member
}

fn is_admin(act_as: &ActAs) -> bool {
    matches!(act_as, ActAs::Admin(_))
}

fn with_id(asked: &ActAs, id: &str) -> ActAs {
    match asked {
        ActAs::User(_) => ActAs::User(id.to_owned()),
        ActAs::Admin(_) => ActAs::Admin(id.to_owned()),
    }
}

/// Member ids hold no `@`.
fn is_email(member: &str) -> bool {
    member.contains('@')
}

/// Addresses are compared without case, ids with it.
fn is_same(one: &str, other: &str) -> bool {
    one == other || (is_email(one) && one.to_lowercase() == other.to_lowercase())
}

/// Dropbox's own pattern; what does not fit is refused as our mistake, not the caller's.
fn is_well_formed(email: &str) -> bool {
    let Some((local, domain)) = email.split_once('@') else { return false };
    let plain = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    let Some((host, top)) = domain.rsplit_once('.') else { return false };
    email.len() <= 255
        && !local.is_empty()
        && plain(local, "'#&._%+-")
        && !host.is_empty()
        && !host.starts_with('.')
        && plain(host, ".-")
        && (2..=15).contains(&top.len())
        && top.chars().all(|c| c.is_ascii_alphabetic())
}

fn nobody(text: &str, rule: &'static str) -> Fault {
    Fault::new(Reason::ActAsInvalid, text).violation("context.act_as", rule, text)
}

fn not_allowed(parameters: &Parameters) -> Fault {
    let message = format!("the policy of {} does not allow to act as this member", parameters.id);
    Fault::new(Reason::ActAsNotAllowed, message).fact("field", "context.act_as")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_dropbox_would_refuse_is_known_before_it_is_asked() {
        for good in ["ann@example.com", "o'neil+x@mail.example-2.org", "A_B%c@x.museum"] {
            assert!(is_well_formed(good), "{good}");
        }
        let long = format!("{}@example.com", "x".repeat(250));
        for bad in [
            "@example.com",
            "ann@",
            "ann@example",
            "ann@.com",
            "ann @example.com",
            "ann@exa mple.com",
            "é@x.com",
            &long,
        ] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_are_compared_without_case_and_ids_with_it() {
        assert!(is_same("Ann@Example.com", "ann@example.COM"));
        assert!(is_same("dbmid:aB", "dbmid:aB") && !is_same("dbmid:aB", "dbmid:ab"));
    }
}
