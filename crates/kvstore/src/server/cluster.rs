//! `etcdserverpb.Cluster`: one member, for ever.

use tonic::{Request, Response, Status};

use crate::{Store, pb};

#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) store: Store,
    /// What members call themselves, and where clients reach us.
    pub(super) name: String,
    pub(super) client_urls: Vec<String>,
}

fn fixed<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "etcdserver: this is an embedded store of one member; use an external etcd cluster for more",
    ))
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        _: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let header = self.store.header();
        let member = pb::Member {
            id: header.member_id,
            name: self.name.clone(),
            // There are no peers; a client takes a member without any for a broken one.
            peer_ur_ls: self.client_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: false,
        };
        Ok(Response::new(pb::MemberListResponse { header: Some(header), members: vec![member] }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        fixed()
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        fixed()
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        fixed()
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        fixed()
    }
}
