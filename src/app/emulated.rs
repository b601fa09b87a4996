//! `serve --emulator`: a Dropbox in this process, and the application parameter `demo` that is linked to its account.

use crate::{
    access::Permission,
    clock::SharedClock,
    config::Config,
    credentials::{Credential, Resolver},
    emulator::{self, Emulator},
    fault::{Fault, Reason},
    secret::Secret,
    store::{self, ParameterId, Store},
};

use super::AppError;

/// The application parameter that `--emulator` makes.
pub const DEMO_PARAMETER: &str = "demo";

pub(super) async fn start(config: &mut Config, clock: SharedClock) -> Result<Emulator, AppError> {
    let options = emulator::Options { clock, contents_on_disk: true, ..emulator::Options::default() };
    let emulator = Emulator::start(options).await.map_err(|error| AppError::Start(error.to_string()))?;
    let addresses = emulator.addresses();
    for (url, address) in [
        (&mut config.dropbox_api_url, &addresses.api),
        (&mut config.dropbox_content_url, &addresses.content),
        (&mut config.dropbox_notify_url, &addresses.notify),
        (&mut config.dropbox_oauth_url, &addresses.www),
    ] {
        *url = address.parse().map_err(|_| AppError::Start("the emulator's address is not a url".into()))?;
    }
    Ok(emulator)
}

/// The application parameter `demo`, linked to the emulator's account, with every permission.
pub(super) async fn make_demo_parameter(store: &Store, resolver: &Resolver, emulator: &Emulator) -> Result<(), Fault> {
    let login = emulator.account();
    let id = ParameterId::new(DEMO_PARAMETER)?;
    let settings = store::Settings {
        display_name: "Demo".into(),
        app_source: store::AppSource::OwnApp,
        app_key: login.app_key,
        policy: store::Policy { permissions: Permission::ALL.to_vec(), ..store::Policy::default() }.into(),
        ..store::Settings::default()
    };
    match store.create_parameters(&id, settings, Some(Secret::new(login.app_secret))).await {
        Err(fault) if fault.reason() != Reason::ApplicationParameterExists => return Err(fault),
        // A store that was kept: the emulator is new, so its grant is given again.
        _ => resolver.import(&id, Credential::RefreshToken(Secret::new(login.refresh_token))).await?,
    };
    Ok(())
}
