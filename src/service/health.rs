//! `grpc.health.v1.Health`: the names of API-DESIGN d.4, fed by `ready`. Dropbox being away is no matter of health.
//! Own, since the stock one ends `Watch` of an unknown name instead of streaming SERVICE_UNKNOWN.

use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health as Service,
};

use crate::{ready::Ready, service::SERVICES};

/// Answers for every listener alike.
#[derive(Debug, Clone)]
pub struct Health {
    pub ready: Ready,
    /// Cancelled when the process refuses new calls: an open watch would hold its connection until it is cut.
    pub draining: CancellationToken,
}

/// What a name is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// The process runs, whatever else.
    Liveness,
    /// All of it, or a service.
    Readiness,
    Unknown,
}

fn name(service: &str) -> Name {
    match service {
        "liveness" => Name::Liveness,
        "" | "readiness" => Name::Readiness,
        service if SERVICES.contains(&service) => Name::Readiness,
        _ => Name::Unknown,
    }
}

fn status(name: Name, ready: bool) -> ServingStatus {
    match name {
        Name::Liveness => ServingStatus::Serving,
        Name::Readiness if ready => ServingStatus::Serving,
        Name::Readiness => ServingStatus::NotServing,
        Name::Unknown => ServingStatus::ServiceUnknown,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[async_trait]
impl Service for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match name(&request.get_ref().service) {
            Name::Unknown => Err(Status::not_found("no such service")),
            name => Ok(Response::new(response(status(name, self.ready.is_ready())))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = self.ready.subscribe();
        let changes = changes(name(&request.get_ref().service), watch);
        Ok(Response::new(changes.take_until(self.draining.clone().cancelled_owned()).boxed()))
    }
}

/// The status now, then whenever it is another one.
fn changes(
    name: Name,
    watch: watch::Receiver<crate::ready::Facts>,
) -> impl futures::Stream<Item = Result<HealthCheckResponse, Status>> {
    stream::unfold((watch, None), move |(mut watch, told)| async move {
        loop {
            let now = status(name, watch.borrow_and_update().is_ready());
            if told != Some(now) {
                return Some((Ok(response(now)), (watch, Some(now))));
            }
            // The process ends without its facts: so does the stream.
            watch.changed().await.ok()?;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    fn health() -> Health {
        Health { ready: Ready::new(), draining: CancellationToken::new() }
    }

    async fn check(health: &Health, service: &str) -> Result<ServingStatus, tonic::Code> {
        let answer = health.check(asked(service)).await;
        answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
    }

    #[tokio::test]
    async fn readiness_and_services_follow_the_facts_and_liveness_does_not() {
        let health = health();
        for service in ["", "readiness", SERVICES[0], SERVICES[1]] {
            assert_eq!(check(&health, service).await, Ok(ServingStatus::NotServing), "{service}");
        }
        assert_eq!(check(&health, "liveness").await, Ok(ServingStatus::Serving));
        assert_eq!(check(&health, "nope").await, Err(tonic::Code::NotFound));
        health.ready.set_loaded();
        assert_eq!(check(&health, "readiness").await, Ok(ServingStatus::Serving));
    }

    #[tokio::test]
    async fn a_watch_tells_changes_and_keeps_quiet_about_unknown_names() {
        let health = health();
        let mut watch = health.watch(asked("readiness")).await.unwrap().into_inner();
        let mut next = async || watch.next().await.unwrap().unwrap().status();
        assert_eq!(next().await, ServingStatus::NotServing);
        health.ready.set_loaded();
        assert_eq!(next().await, ServingStatus::Serving);
        health.ready.set_draining();
        assert_eq!(next().await, ServingStatus::NotServing);
        health.draining.cancel();
        assert!(watch.next().await.is_none(), "a watch does not outlive the drain");
        let health = self::health();
        let mut unknown = health.watch(asked("nope")).await.unwrap().into_inner();
        assert_eq!(unknown.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    }
}
