//! `grpc.health.v1.Health`: a server that answers is well, unless it is full.

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::methods;
use crate::Store;
use crate::pb::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

#[derive(Debug)]
pub(super) struct Health {
    pub(super) store: Store,
    pub(super) shutdown: CancellationToken,
}

impl Health {
    /// `None` for a service that is not ours. The empty name stands for the whole server.
    fn of(&self, service: &str) -> Option<ServingStatus> {
        if !service.is_empty() && !methods::ALL.iter().any(|method| method.service == service) {
            return None;
        }
        Some(if self.store.space_alarm() { ServingStatus::NotServing } else { ServingStatus::Serving })
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.of(&request.get_ref().service);
        status.map(|status| Response::new(answer(status))).ok_or_else(|| Status::not_found("unknown service"))
    }

    /// Tells the status now, and that it is over when the server stops.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let now = self.of(&request.get_ref().service).unwrap_or(ServingStatus::ServiceUnknown);
        let stop = self.shutdown.clone();
        let end = async move {
            stop.cancelled().await;
            Ok(answer(ServingStatus::NotServing))
        };
        let stream = futures::stream::iter([Ok(answer(now))]).chain(futures::stream::once(end));
        Ok(Response::new(stream.boxed()))
    }
}
