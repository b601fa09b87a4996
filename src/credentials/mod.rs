//! Application-parameter id → Caller. `open` is the single gate.
#[cfg(any())]
mod signatures {
    pub struct Resolver;
    /// What a request says about itself beside the id.
    pub struct Ask {
        pub principal: Principal,
        pub permissions: Permissions, /* Permission::Read.into() or Write | Share */
        pub act_as: Option<ActAs>,
        pub root: Option<Root>,
        pub deadline: Option<Instant>,
    }
    pub struct Opened {
        pub caller: Caller,
        pub parameters: Arc<Parameters>,
    }
    pub enum Credential {
        RefreshToken(Secret<String>),
        AccessToken { token: Secret<String>, expires_at: Option<SystemTime> },
    }
    pub struct TestReport {
        pub account: Account,
        pub scopes: Vec<String>,
        pub latency: Duration,
        pub clock_skew: Option<Duration>, /* ... */
    }
    impl Resolver {
        pub fn new(store: Store, transport: Arc<Transport>, clock: SharedClock) -> Arc<Resolver>;
        pub async fn open(&self, id: &ParameterId, ask: Ask) -> Result<Opened>;
        pub fn forget(&self, id: &ParameterId);
        /// After 422 PATH_ROOT_CHANGED: the next `open` asks Dropbox again.
        pub fn forget_root(&self, id: &ParameterId);
        pub async fn import(&self, id: &ParameterId, credential: Credential) -> Result<Parameters>;
        pub async fn test(&self, id: &ParameterId) -> Result<TestReport>;
        /// Body of the change-feed task; the app spawns it and drops it at the end.
        pub async fn follow_changes(&self) -> std::convert::Infallible;
    }
}
