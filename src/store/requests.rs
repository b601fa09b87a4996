use super::*;
/// Parameter uid, principal, RPC, id.
#[derive(Debug, Clone, Copy)]
pub struct RequestKey<'a> { pub uid: &'a str, pub principal: &'a str, pub rpc: &'a str, pub request_id: &'a str }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTurn {
    /// First time: run it, then `finish_request`.
    New,
    /// The first still runs: ask again.
    Running,
    /// The process that ran it is gone; what it did is unknown. The turn is yours now.
    Abandoned,
    Answer(Vec<u8>),
    /// Same id, other bytes.
    Reused,
}
impl Store {
    /// `digest`: SHA-256 of the request's bytes.
    pub async fn begin_request(&self, key: &RequestKey<'_>, digest: &[u8; 32]) -> Result<RequestTurn> { todo!() }
    /// `None` forgets it (answers with RetryInfo).
    pub async fn finish_request(&self, key: &RequestKey<'_>, answer: Option<&[u8]>) -> Result<()> { todo!() }
}
