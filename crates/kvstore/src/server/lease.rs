//! `etcdserverpb.Lease`.

use std::pin::Pin;
use std::time::Instant;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::access::caller;
use crate::{Error, Store, pb};

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) store: Store,
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        caller(&request)?.lease()?;
        let request = request.into_inner();
        let (id, ttl) =
            self.store.staged().lease_grant(request.id, request.ttl, Instant::now()).done().await?;
        let header = Some(self.store.header());
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        caller(&request)?.lease()?;
        let id = request.get_ref().id;
        if let Some(info) = self.store.lease_info(id, Instant::now()) {
            caller(&request)?.writes_all(&info.keys)?;
        }
        self.store.staged().lease_revoke(id).done().await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.store.header()) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        caller(&request)?.lease()?;
        let store = self.store.clone();
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            // A lease that is gone is answered with 0 seconds, not with an error.
            let ttl = store.lease_keep_alive(id, Instant::now()).unwrap_or(0);
            Ok(pb::LeaseKeepAliveResponse { header: Some(store.header()), id, ttl })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = caller(&request)?.clone();
        caller.lease()?;
        let request = request.into_inner();
        let header = Some(self.store.header());
        let response = match self.store.lease_info(request.id, Instant::now()) {
            Some(info) if request.keys && caller.reads_all(&info.keys).is_err() => {
                return Err(Error::PermissionDenied.into());
            }
            Some(info) => pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: info.remaining,
                granted_ttl: info.granted,
                keys: if request.keys { info.keys } else { Vec::new() },
            },
            None => pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() },
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        caller(&request)?.lease()?;
        let leases = self.store.leases().into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: Some(self.store.header()), leases }))
    }
}
