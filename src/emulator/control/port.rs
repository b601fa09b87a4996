//! The control port: [`Control`] over HTTP, JSON in and out. A wrong request gets 400 and `{"error": "…"}`.
//!
//! | endpoint | does |
//! |---|---|
//! | `GET /control/login` | the default account: app key and secret, refresh token, access token |
//! | `POST /control/login` | a new grant: `{"account_id"?, "scopes"?: [..]}` → the same fields |
//! | `POST /control/accounts` | a further account: `{"email", "given_name", "surname", "team"?}` → `{"account_id"}` |
//! | `GET /control/script` | the rules, with `seen` and `fired` |
//! | `POST /control/script` | adds rules: a list of [`Rule`], or one |
//! | `DELETE /control/script` | drops all rules |
//! | `GET /control/counters` | by route: calls, bytes, running now and at most, largest body, entries of batches |
//! | `GET /control/journal?last=n` | the last requests, oldest first |
//! | `GET /control/wrong_answers` | answers that were not of the published types: the emulator's own mistakes |
//! | `DELETE /control/journal` | counters and journal begin anew |
//! | `POST /control/reset` | everything as if just started |
//! | `POST /control/seed` | entries: [`Seed`] |
//! | `POST /control/documents` | a file that can only be exported: [`Document`] |
//! | `POST /control/restrictions` | an item that answers with an error of its own: [`Restriction`] |
//! | `POST /control/mounts` | a folder shown from a new namespace: `{"account_id"?, "path"}` → `{"namespace_id"}` |
//! | `GET /control/sessions` | upload sessions not committed yet: `{"open"}` |
//! | `POST /control/sessions/expire` | every upload session ends |
//! | `POST /control/tokens/expire` | every access token is expired |
//! | `POST /control/tokens/revoke` | ends a grant: `{"refresh_token"?}`; all without → `{"ended"}` |
//! | `POST /control/consent` | what the consent page does by itself: `{"consent": "ask" or "approve" or "deny"}` |
//! | `POST /control/sign_in` | who is signed in at the consent page: `{"account_id"?, "team"?}`; for the whole team if so |
//! | `POST /control/app_secret` | another secret of the app: `{"secret"}` |
//! | `POST /control/redirects` | registers a redirect URI: `{"uri"}` |
//! | `GET /control/switches` | where Dropbox varies: all fields |
//! | `POST /control/switches` | changes the fields given |
//! | `POST /control/cursors/reset` | every cursor there is answers `reset` |
//! | `GET /control/webhooks` | registered webhooks: `[{"app_key", "uri", "calls", "good", "dropped", "running"}]` |
//! | `POST /control/webhooks` | registers one, after a challenge: `{"uri", "app_key"?}` |
//! | `DELETE /control/webhooks` | forgets them |
//! | `POST /control/case` | writes a name otherwise, unheard by cursors: `{"path", "account_id"?}` |
//! | `GET /control/clock` | `{"now"}` |
//! | `POST /control/clock` | moves a manual clock: `{"advance_seconds"}` → `{"now"}` |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Consent, Control, ControlError, Document, Restriction, Rule, Seed, invalid};
use crate::{
    clock::dropbox_time,
    emulator::{Contention, DeltaOrder, Loss, ResentBlock, SecondFinish, Switches, World},
};

/// The longest clock step at once: beyond it, times leave what Dropbox can write.
const ADVANCE_SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// Answers one request of the control port.
pub(in crate::emulator) async fn serve(world: &Arc<World>, request: Request<Bytes>) -> Response<Bytes> {
    let control = Control::new(world.clone());
    let (status, body) = match control.answer(&request).await {
        Ok(Some(body)) => (StatusCode::OK, body),
        Ok(None) => (StatusCode::NOT_FOUND, json!({ "error": "no such endpoint, or another method" })),
        Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": error.to_string() })),
    };
    let response = Response::builder().status(status).header("Content-Type", "application/json");
    response.body(Bytes::from(body.to_string())).expect("a plain head")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LoginAsked {
    account_id: Option<String>,
    team: bool,
    scopes: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountAsked {
    email: String,
    given_name: String,
    surname: String,
    team: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RevokeAsked {
    refresh_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsentAsked {
    consent: Consent,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInAsked {
    account_id: Option<String>,
    #[serde(default)]
    team: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppSecretAsked {
    secret: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectAsked {
    uri: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookAsked {
    #[serde(default)]
    app_key: Option<String>,
    uri: String,
}

/// An account and a path in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathAsked {
    #[serde(default)]
    account_id: Option<String>,
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceAsked {
    advance_seconds: u64,
}

/// [`Switches`] as JSON; on the way in, what is absent stays. `null` switches contention, jobs, rate and loss off.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Levers {
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    contention: Option<Option<ContentionLever>>,
    resent_block: Option<String>,
    second_finish: Option<String>,
    early_close_allowed: Option<bool>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    jobs_in_progress: Option<Option<u32>>,
    list_page: Option<usize>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    listing_page: Option<Option<usize>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    delta_page: Option<Option<usize>>,
    delta_order: Option<DeltaOrder>,
    webhook_delay_millis: Option<u64>,
    longpoll_jitter_millis: Option<u64>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    longpoll_backoff: Option<Option<u64>>,
    space: Option<u64>,
    answer_takes_millis: Option<u64>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    connection_bytes_per_second: Option<Option<u64>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    loss: Option<Option<Loss>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentionLever {
    commit_takes_millis: u64,
    #[serde(default)]
    as_409: bool,
}

/// Tells `null` from absent.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(source: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(source).map(Some)
}

impl Levers {
    fn of(switches: &Switches) -> Levers {
        let contention = switches.contention.map(|contention| ContentionLever {
            commit_takes_millis: millis(contention.commit_takes),
            as_409: contention.as_409,
        });
        let resent = match switches.resent_block {
            ResentBlock::Accepted => "accepted",
            ResentBlock::IncorrectOffset => "incorrect_offset",
        };
        let second = match switches.second_finish {
            SecondFinish::NotFound => "not_found",
            SecondFinish::Closed => "closed",
            SecondFinish::SameAnswer => "same_answer",
        };
        Levers {
            contention: Some(contention),
            resent_block: Some(resent.to_owned()),
            second_finish: Some(second.to_owned()),
            early_close_allowed: Some(switches.early_close_allowed),
            jobs_in_progress: Some(switches.jobs_in_progress),
            list_page: Some(switches.list_page),
            listing_page: Some(switches.listing_page),
            delta_page: Some(switches.delta_page),
            delta_order: Some(switches.delta_order),
            webhook_delay_millis: Some(millis(switches.webhook_delay)),
            longpoll_jitter_millis: Some(millis(switches.longpoll_jitter)),
            longpoll_backoff: Some(switches.longpoll_backoff),
            space: Some(switches.space),
            answer_takes_millis: Some(millis(switches.answer_takes)),
            connection_bytes_per_second: Some(switches.connection_bytes_per_second),
            loss: Some(switches.loss),
        }
    }

    /// # Errors
    /// A word that is none of a lever's places, a page of no entries.
    fn onto(self, mut switches: Switches) -> Result<Switches, ControlError> {
        if let Some(contention) = self.contention {
            switches.contention = contention.map(|lever| Contention {
                commit_takes: Duration::from_millis(lever.commit_takes_millis),
                as_409: lever.as_409,
            });
        }
        switches.resent_block = match self.resent_block.as_deref() {
            None => switches.resent_block,
            Some("accepted") => ResentBlock::Accepted,
            Some("incorrect_offset") => ResentBlock::IncorrectOffset,
            Some(other) => return invalid(format!("resent_block: '{other}' is not accepted or incorrect_offset")),
        };
        switches.second_finish = match self.second_finish.as_deref() {
            None => switches.second_finish,
            Some("not_found") => SecondFinish::NotFound,
            Some("closed") => SecondFinish::Closed,
            Some("same_answer") => SecondFinish::SameAnswer,
            Some(other) => return invalid(format!("second_finish: '{other}' is not not_found, closed or same_answer")),
        };
        if self.list_page == Some(0) || self.listing_page == Some(Some(0)) || self.delta_page == Some(Some(0)) {
            return invalid("list_page, listing_page, delta_page: is 0");
        }
        if self.connection_bytes_per_second == Some(Some(0)) {
            return invalid("connection_bytes_per_second: is 0");
        }
        if let Some(Some(loss)) = &self.loss {
            loss.check().map_err(|wrong| ControlError::Invalid(format!("loss: {wrong}")))?;
        }
        switches.loss = self.loss.unwrap_or(switches.loss);
        switches.answer_takes = self.answer_takes_millis.map_or(switches.answer_takes, Duration::from_millis);
        switches.connection_bytes_per_second =
            self.connection_bytes_per_second.unwrap_or(switches.connection_bytes_per_second);
        switches.early_close_allowed = self.early_close_allowed.unwrap_or(switches.early_close_allowed);
        switches.jobs_in_progress = self.jobs_in_progress.unwrap_or(switches.jobs_in_progress);
        switches.list_page = self.list_page.unwrap_or(switches.list_page);
        switches.listing_page = self.listing_page.unwrap_or(switches.listing_page);
        switches.delta_page = self.delta_page.unwrap_or(switches.delta_page);
        switches.delta_order = self.delta_order.unwrap_or(switches.delta_order);
        switches.webhook_delay = self.webhook_delay_millis.map_or(switches.webhook_delay, Duration::from_millis);
        switches.longpoll_jitter = self.longpoll_jitter_millis.map_or(switches.longpoll_jitter, Duration::from_millis);
        switches.longpoll_backoff = self.longpoll_backoff.unwrap_or(switches.longpoll_backoff);
        switches.space = self.space.unwrap_or(switches.space);
        Ok(switches)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).or_else(|error| invalid(error.to_string()))
}

/// As [`read`]; no body at all is an empty object.
fn read_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ControlError> {
    if body.is_empty() { Ok(T::default()) } else { read(body) }
}

fn shown(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("plain data is JSON")
}

impl Control {
    /// `None`: there is no such endpoint.
    async fn answer(&self, request: &Request<Bytes>) -> Result<Option<Value>, ControlError> {
        let body = request.body();
        let done = json!({});
        let path = request.uri().path().strip_prefix("/control/").unwrap_or_default();
        let answer = match (request.method(), path) {
            (&Method::GET, "login") => shown(self.login()),
            (&Method::POST, "login") => {
                let asked: LoginAsked = read_or_default(body)?;
                shown(match asked.team {
                    true => self.issue_team(asked.account_id.as_deref().unwrap_or_default())?,
                    false => self.issue(asked.account_id.as_deref(), asked.scopes.as_deref())?,
                })
            }
            (&Method::POST, "accounts") => {
                let asked: AccountAsked = read(body)?;
                let id = self.add_account(&asked.email, &asked.given_name, &asked.surname, asked.team.as_deref());
                json!({ "account_id": id })
            }
            (&Method::GET, "script") => shown(self.standing()),
            (&Method::POST, "script") => {
                // One by one, so that what is wrong with one is told in its own words.
                let rules = match read(body)? {
                    Value::Array(_) => read::<Vec<Rule>>(body)?,
                    _ => vec![read(body)?],
                };
                self.script(rules)?;
                done
            }
            (&Method::DELETE, "script") => {
                self.clear_script();
                done
            }
            (&Method::GET, "counters") => shown(self.counters()),
            (&Method::GET, "wrong_answers") => shown(self.wrong_answers()),
            (&Method::GET, "journal") => {
                let journal = self.journal();
                let query = request.uri().query().unwrap_or_default().as_bytes();
                let last = url::form_urlencoded::parse(query).find(|(name, _)| name == "last");
                let last = last.map(|(_, value)| value.parse::<usize>());
                let last = last.transpose().or_else(|_| invalid("last: is not a number"))?;
                shown(&journal[journal.len().saturating_sub(last.unwrap_or(usize::MAX))..])
            }
            (&Method::DELETE, "journal") => {
                self.clear_journal();
                done
            }
            (&Method::POST, "reset") => {
                self.reset();
                done
            }
            (&Method::POST, "seed") => {
                self.seed(&read::<Seed>(body)?)?;
                done
            }
            (&Method::POST, "documents") => {
                self.seed_document(&read::<Document>(body)?)?;
                done
            }
            (&Method::POST, "restrictions") => {
                self.restrict(&read::<Restriction>(body)?)?;
                done
            }
            (&Method::POST, "mounts") => {
                let asked: PathAsked = read(body)?;
                json!({ "namespace_id": self.mount_namespace(asked.account_id.as_deref(), &asked.path)?.to_string() })
            }
            (&Method::GET, "sessions") => json!({ "open": self.open_sessions() }),
            (&Method::POST, "sessions/expire") => {
                self.expire_sessions();
                done
            }
            (&Method::POST, "tokens/expire") => {
                self.expire_access_tokens();
                done
            }
            (&Method::POST, "tokens/revoke") => {
                let asked: RevokeAsked = read_or_default(body)?;
                json!({ "ended": self.revoke(asked.refresh_token.as_deref()) })
            }
            (&Method::POST, "consent") => {
                self.set_consent(read::<ConsentAsked>(body)?.consent);
                done
            }
            (&Method::POST, "sign_in") => {
                let asked: SignInAsked = read(body)?;
                match asked.account_id.as_deref() {
                    Some(account) if asked.team => drop(self.sign_in_for_team(account)?),
                    account => self.sign_in(account)?,
                }
                done
            }
            (&Method::POST, "app_secret") => {
                self.set_app_secret(&read::<AppSecretAsked>(body)?.secret);
                done
            }
            (&Method::POST, "redirects") => {
                self.register_redirect(&read::<RedirectAsked>(body)?.uri)?;
                done
            }
            (&Method::GET, "switches") => shown(Levers::of(&self.switches())),
            (&Method::POST, "switches") => {
                let switches = read::<Levers>(body)?.onto(self.switches())?;
                self.switch(|place| *place = switches);
                done
            }
            (&Method::POST, "cursors/reset") => {
                self.reset_cursors();
                done
            }
            (&Method::GET, "webhooks") => shown(self.webhooks()),
            (&Method::POST, "webhooks") => {
                let asked: WebhookAsked = read(body)?;
                self.register_webhook(asked.app_key.as_deref(), &asked.uri).await?;
                done
            }
            (&Method::DELETE, "webhooks") => {
                self.clear_webhooks();
                done
            }
            (&Method::POST, "case") => {
                let asked: PathAsked = read(body)?;
                self.recase(asked.account_id.as_deref(), &asked.path)?;
                done
            }
            (&Method::GET, "clock") => json!({ "now": dropbox_time(self.now()) }),
            (&Method::POST, "clock") => {
                let seconds = read::<AdvanceAsked>(body)?.advance_seconds;
                if seconds > ADVANCE_SECONDS_MAX {
                    return invalid(format!("advance_seconds: more than {ADVANCE_SECONDS_MAX}"));
                }
                self.advance(Duration::from_secs(seconds)).await?;
                json!({ "now": dropbox_time(self.now()) })
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lever_that_is_not_named_stays_where_it_is() {
        let moved: Levers = serde_json::from_value(json!({
            "contention": {"commit_takes_millis": 20}, "second_finish": "same_answer", "list_page": 7
        }))
        .expect("levers");
        let switches = moved.onto(Switches::default()).expect("sound levers");
        assert_eq!(switches.contention, Some(Contention { commit_takes: Duration::from_millis(20), as_409: false }));
        assert_eq!((switches.second_finish, switches.list_page), (SecondFinish::SameAnswer, 7));
        let off: Levers = serde_json::from_value(json!({"contention": null})).expect("levers");
        let after = off.onto(switches.clone()).expect("sound levers");
        assert_eq!(after, Switches { contention: None, ..switches });
        let word: Levers = serde_json::from_value(json!({"second_finish": "maybe"})).expect("levers");
        assert!(word.onto(Switches::default()).is_err());
    }

    #[test]
    fn levers_show_and_take_the_same_words() {
        let default = Switches::default();
        let text = shown(Levers::of(&default));
        let back: Levers = serde_json::from_value(text).expect("what is shown can be sent back");
        assert_eq!(back.onto(Switches::default()).expect("sound levers"), default);
    }
}
