//! As whom a team link acts. A request may choose only what the policy lists; an e-mail address is looked up at Dropbox and
//! taken for the id of its member from then on, for ten minutes. Who may not act as a member does not learn who is one.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use dropbox_sdk::types::team::{MembersGetInfoItemV2, MembersGetInfoV2Arg, UserSelectorArg};

use crate::{
    dropbox::{ActAs, Caller, routes},
    fault::{Fault, Reason, Result},
    limits::{MEMBER_LIFE, MEMBER_NAMES_MAX},
    store::{AccountKind, ActAsMode, Member, Parameters},
};

/// A member by both names, the address in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    id: Arc<str>,
    email: Arc<str>,
}

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
    let named = allowed.iter().any(|allowed| is_same(allowed, name(&asked)));
    let by_other_name = allowed.iter().any(|allowed| is_email(allowed) != is_email(name(&asked)));
    if !named && settings.policy.act_as != ActAsMode::Any && !by_other_name {
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
                None => Err(nobody("nobody in the linked team has this e-mail address", "NOT_FOUND")),
            },
            Chosen::If(asked, allowed) => {
                let seat = self.seat(name(&asked), now, caller).await?.ok_or_else(|| not_allowed(parameters))?;
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
