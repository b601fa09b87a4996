//! The admin service: application parameters made, changed, linked and tried. Who calls was settled by the guard.

use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status, async_trait};

use super::{
    call::{Call, answer},
    door::Door,
    parameters::{self, Mask},
};
use crate::{
    api::v1::{
        self as api, dropbox_admin_connector_server::DropboxAdminConnector,
        import_credentials_request::Credential as Given,
    },
    convert::{Fields, duration, timestamp},
    credentials::{By, Credential, put_ids},
    fault::{Fault, Reason, Result},
    limits::{PARAMETERS_PAGE_DEFAULT, PARAMETERS_PAGE_MAX},
    seal::{HandleKind, Owner},
    store::{self, ParameterId},
};

/// Page tokens of this service belong to no application parameter.
const OWNER: Owner<'static> = Owner { uid: "admin", account: "" };
const PAGE: HandleKind = HandleKind::Page("ListApplicationParameters");

/// The RPCs for administrators.
#[derive(Clone)]
pub struct Admin {
    pub door: Door,
}

#[derive(Serialize, Deserialize)]
struct Token {
    group: String,
    after: String,
}

fn id(call: &Call, text: &str) -> Result<ParameterId> {
    let id = ParameterId::new(text)?;
    call.name_parameter(id.as_str());
    Ok(id)
}

fn required() -> Fault {
    Fault::field("application_parameter", "REQUIRED", "must be set")
}

fn not_found(id: &ParameterId) -> Fault {
    Fault::new(Reason::ApplicationParameterNotFound, format!("there is no application parameter {id}"))
        .parameter(id.as_str())
}

impl Admin {
    async fn create(
        &self,
        call: Call,
        request: api::CreateApplicationParameterRequest,
    ) -> Result<api::CreateApplicationParameterResponse> {
        let asked = request.application_parameter.ok_or_else(required)?;
        // Beside the resource, or, as people try first, in it.
        let named = match (request.application_parameter_id.as_str(), asked.application_parameter_id.as_str()) {
            ("", inside) => inside,
            (beside, inside) if !inside.is_empty() && beside != inside => {
                let text = "the request and its application parameter name different ids";
                return Err(Fault::new(Reason::ApplicationParameterMismatch, text));
            }
            (beside, _) => beside,
        };
        let id = id(&call, named)?;
        let settings = parameters::settings(&asked)?;
        self.door.resolver.check_app(settings.app_source)?;
        let made = self.door.store.create_parameters(&id, settings, parameters::secrets(&asked)).await?;
        // The id may have been used before, and asked for since.
        self.door.resolver.forget(&id);
        Ok(api::CreateApplicationParameterResponse { application_parameter: Some(parameters::resource(&made)) })
    }

    async fn get(
        &self,
        call: Call,
        request: api::GetApplicationParameterRequest,
    ) -> Result<api::GetApplicationParameterResponse> {
        let id = id(&call, &request.application_parameter_id)?;
        let found = self.door.store.parameters(&id).await?.ok_or_else(|| not_found(&id))?;
        Ok(api::GetApplicationParameterResponse { application_parameter: Some(parameters::resource(&found)) })
    }

    async fn list(
        &self,
        _: Call,
        request: api::ListApplicationParametersRequest,
    ) -> Result<api::ListApplicationParametersResponse> {
        let mut fields = Fields::new();
        fields.text("group", &request.group);
        let page_size = fields.page_size(request.page_size, PARAMETERS_PAGE_DEFAULT, PARAMETERS_PAGE_MAX);
        fields.accept(())?;
        let after = if request.page_token.is_empty() {
            None
        } else {
            let token: Token = self.door.keys.open_handle(PAGE, &OWNER, &request.page_token)?;
            if token.group != request.group {
                let text = "the page token was given for another group";
                return Err(Fault::new(Reason::PageTokenMismatch, text));
            }
            Some(ParameterId::new(&token.after)?)
        };
        // One more than asked for tells whether there is a next page.
        let mut found = self.door.store.list_parameters(&request.group, after.as_ref(), page_size + 1).await?;
        let more = found.len() > page_size as usize;
        found.truncate(page_size as usize);
        let next = found.last().filter(|_| more).map(|last| {
            let token = Token { group: request.group.clone(), after: last.id.as_str().to_owned() };
            self.door.keys.seal_handle(PAGE, &OWNER, &token)
        });
        Ok(api::ListApplicationParametersResponse {
            application_parameters: found.iter().map(parameters::resource).collect(),
            next_page_token: next.transpose()?.unwrap_or_default(),
        })
    }

    async fn update(
        &self,
        call: Call,
        request: api::UpdateApplicationParameterRequest,
    ) -> Result<api::UpdateApplicationParameterResponse> {
        let asked = request.application_parameter.ok_or_else(required)?;
        let id = id(&call, &asked.application_parameter_id)?;
        let mask = Mask::new(request.update_mask.as_ref())?;
        let new = parameters::settings(&asked)?;
        let etag = parameters::etag(&id, &request.etag)?;
        let secrets = mask.secrets(&asked);
        let resolver = &self.door.resolver;
        let mut named = store::Settings::default();
        mask.apply(&asked, &new, &mut named)?;
        let ids = resolver.member_ids(&id, &named, call.deadline()).await?;
        let edit = |settings: &mut store::Settings| {
            mask.apply(&asked, &new, settings)?;
            put_ids(settings, &ids);
            resolver.check_app(settings.app_source)
        };
        let changed = self.door.store.update_parameters(&id, etag, secrets, edit).await?;
        self.door.resolver.forget(&id);
        Ok(api::UpdateApplicationParameterResponse { application_parameter: Some(parameters::resource(&changed)) })
    }

    async fn delete(
        &self,
        call: Call,
        request: api::DeleteApplicationParameterRequest,
    ) -> Result<api::DeleteApplicationParameterResponse> {
        let id = id(&call, &request.application_parameter_id)?;
        let revoked_at_dropbox = self.door.resolver.delete(&id, request.revoke, call.deadline()).await?;
        Ok(api::DeleteApplicationParameterResponse { revoked_at_dropbox })
    }

    async fn begin(
        &self,
        call: Call,
        request: api::BeginAuthorizationRequest,
    ) -> Result<api::BeginAuthorizationResponse> {
        let id = id(&call, &request.application_parameter_id)?;
        let wish = parameters::wish(request)?;
        let by = By::Principal(call.principal().name().to_owned());
        let begun = self.door.resolver.begin_authorization(&id, wish, by).await?;
        Ok(api::BeginAuthorizationResponse {
            authorize_url: begun.authorize_url.into(),
            state: begun.state,
            expire_time: Some(timestamp(begun.expires_at)),
        })
    }

    async fn complete(
        &self,
        call: Call,
        request: api::CompleteAuthorizationRequest,
    ) -> Result<api::CompleteAuthorizationResponse> {
        let (state, outcome) = parameters::outcome(request)?;
        let by = By::Principal(call.principal().name().to_owned());
        let completed = self.door.resolver.complete_authorization(state, outcome, by).await?;
        call.name_parameter(completed.parameters.id.as_str());
        Ok(api::CompleteAuthorizationResponse {
            granted_scopes: completed.parameters.granted_scopes.clone(),
            account: completed.parameters.account.as_ref().map(parameters::summary),
            application_parameter: Some(parameters::resource(&completed.parameters)),
            missing_scopes: completed.missing_scopes,
        })
    }

    async fn revoke(
        &self,
        call: Call,
        request: api::RevokeAuthorizationRequest,
    ) -> Result<api::RevokeAuthorizationResponse> {
        let id = id(&call, &request.application_parameter_id)?;
        let revoked = self.door.resolver.revoke_authorization(&id, call.deadline()).await?;
        Ok(api::RevokeAuthorizationResponse {
            application_parameter: Some(parameters::resource(&revoked.parameters)),
            revoked_at_dropbox: revoked.at_dropbox,
        })
    }

    async fn import(
        &self,
        call: Call,
        request: api::ImportCredentialsRequest,
    ) -> Result<api::ImportCredentialsResponse> {
        let id = id(&call, &request.application_parameter_id)?;
        let mut fields = Fields::new();
        let credential = match request.credential {
            Some(Given::RefreshToken(token)) => {
                fields.required("refresh_token", &token);
                Some(Credential::RefreshToken(token.into()))
            }
            Some(Given::AccessToken(given)) => {
                fields.required("access_token.token", &given.token);
                let expires_at = fields.time("access_token.expire_time", given.expire_time.as_ref());
                Some(Credential::AccessToken { token: given.token.into(), expires_at })
            }
            None => {
                fields.refuse("credential", "REQUIRED", "set refresh_token or access_token");
                None
            }
        };
        let credential = fields.accept(credential)?.ok_or_else(|| Fault::bug("a missing credential was accepted"))?;
        let linked = self.door.resolver.import(&id, credential).await?;
        Ok(api::ImportCredentialsResponse { application_parameter: Some(parameters::resource(&linked)) })
    }

    async fn test(
        &self,
        call: Call,
        request: api::TestApplicationParameterRequest,
    ) -> Result<api::TestApplicationParameterResponse> {
        let id = id(&call, &request.application_parameter_id)?;
        let report = self.door.resolver.test(&id, call.deadline()).await?;
        Ok(api::TestApplicationParameterResponse {
            account: report.account.as_ref().map(parameters::summary),
            granted_scopes: report.scopes,
            latency: Some(duration(report.latency)),
            proxy: report.proxy.unwrap_or_default(),
            clock_skew: report.clock_skew_seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        })
    }
}

#[async_trait]
impl DropboxAdminConnector for Admin {
    async fn create_application_parameter(
        &self,
        request: Request<api::CreateApplicationParameterRequest>,
    ) -> Result<Response<api::CreateApplicationParameterResponse>, Status> {
        answer(request, |call, request| self.create(call, request)).await
    }

    async fn get_application_parameter(
        &self,
        request: Request<api::GetApplicationParameterRequest>,
    ) -> Result<Response<api::GetApplicationParameterResponse>, Status> {
        answer(request, |call, request| self.get(call, request)).await
    }

    async fn list_application_parameters(
        &self,
        request: Request<api::ListApplicationParametersRequest>,
    ) -> Result<Response<api::ListApplicationParametersResponse>, Status> {
        answer(request, |call, request| self.list(call, request)).await
    }

    async fn update_application_parameter(
        &self,
        request: Request<api::UpdateApplicationParameterRequest>,
    ) -> Result<Response<api::UpdateApplicationParameterResponse>, Status> {
        answer(request, |call, request| self.update(call, request)).await
    }

    async fn delete_application_parameter(
        &self,
        request: Request<api::DeleteApplicationParameterRequest>,
    ) -> Result<Response<api::DeleteApplicationParameterResponse>, Status> {
        answer(request, |call, request| self.delete(call, request)).await
    }

    async fn begin_authorization(
        &self,
        request: Request<api::BeginAuthorizationRequest>,
    ) -> Result<Response<api::BeginAuthorizationResponse>, Status> {
        answer(request, |call, request| self.begin(call, request)).await
    }

    async fn complete_authorization(
        &self,
        request: Request<api::CompleteAuthorizationRequest>,
    ) -> Result<Response<api::CompleteAuthorizationResponse>, Status> {
        answer(request, |call, request| self.complete(call, request)).await
    }

    async fn revoke_authorization(
        &self,
        request: Request<api::RevokeAuthorizationRequest>,
    ) -> Result<Response<api::RevokeAuthorizationResponse>, Status> {
        answer(request, |call, request| self.revoke(call, request)).await
    }

    async fn import_credentials(
        &self,
        request: Request<api::ImportCredentialsRequest>,
    ) -> Result<Response<api::ImportCredentialsResponse>, Status> {
        answer(request, |call, request| self.import(call, request)).await
    }

    async fn test_application_parameter(
        &self,
        request: Request<api::TestApplicationParameterRequest>,
    ) -> Result<Response<api::TestApplicationParameterResponse>, Status> {
        answer(request, |call, request| self.test(call, request)).await
    }
}
