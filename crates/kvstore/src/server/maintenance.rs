//! `etcdserverpb.Maintenance`, as far as a single member has answers.

use std::pin::Pin;

use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::caller;
use super::{ETCD_VERSION, snapshot};
use crate::pb::{AlarmType, alarm_request::AlarmAction};
use crate::{ContentHash, Error, Store, pb};

#[derive(Debug, Clone)]
pub(super) struct Maintenance {
    pub(super) store: Store,
}

impl Maintenance {
    /// The alarms of this member: one, or none.
    fn alarms(&self) -> Vec<pb::AlarmMember> {
        let raised = self.store.space_alarm();
        raised.then(|| self.no_space()).into_iter().collect()
    }

    fn no_space(&self) -> pb::AlarmMember {
        pb::AlarmMember { member_id: self.store.header().member_id, alarm: AlarmType::Nospace as i32 }
    }

    /// Hashing takes as long as the content is large: not on a thread that serves others.
    async fn hash(&self, revision: i64) -> Result<ContentHash, Error> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.hash(revision)).await.expect("hashing does not panic")
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let asked = request.get_ref();
        let ours = asked.member_id == 0 || asked.member_id == self.store.header().member_id;
        let about_space = matches!(asked.alarm(), AlarmType::Nospace);
        let alarms = match asked.action() {
            AlarmAction::Get if about_space || asked.alarm() == AlarmType::None => self.alarms(),
            AlarmAction::Get => Vec::new(),
            action => {
                caller(&request)?.administer()?;
                if !ours {
                    return Err(Error::MemberNotFound.into());
                }
                let raised = action == AlarmAction::Activate;
                if raised && !about_space {
                    return Err(Status::invalid_argument("only the alarm NOSPACE can be raised"));
                }
                let changed = about_space && self.store.staged().set_space_alarm(raised).done().await?;
                (changed || raised).then(|| self.no_space()).into_iter().collect()
            }
        };
        Ok(Response::new(pb::AlarmResponse { header: Some(self.store.header()), alarms }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let header = self.store.header();
        let stats = self.store.stats();
        let index = header.revision.unsigned_abs();
        let alarms = self.alarms();
        Ok(Response::new(pb::StatusResponse {
            version: ETCD_VERSION.into(),
            db_size: stats.total_bytes,
            db_size_in_use: stats.live_bytes,
            leader: header.member_id,
            raft_index: index,
            raft_applied_index: index,
            raft_term: header.raft_term,
            errors: alarms.iter().map(|a| format!("memberID:{} alarm:NOSPACE ", a.member_id)).collect(),
            is_learner: false,
            header: Some(header),
        }))
    }

    /// There is no file with holes in it; what was compacted is free already. It is the trees that have them.
    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        caller(&request)?.administer()?;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.defragment()).await.expect("defragmenting does not panic");
        Ok(Response::new(pb::DefragmentResponse { header: Some(self.store.header()) }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        caller(&request)?.inspect()?;
        let found = self.hash(0).await?;
        let header = Some(self.store.header_at(found.revision));
        Ok(Response::new(pb::HashResponse { header, hash: found.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        caller(&request)?.inspect()?;
        let found = self.hash(request.get_ref().revision).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(self.store.header()),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.revision,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        caller(&request)?.inspect()?;
        let parts = snapshot::stream(self.store.clone());
        Ok(Response::new(Box::pin(ReceiverStream::new(parts))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        caller(&request)?.administer()?;
        if request.get_ref().target_id != self.store.header().member_id {
            return Err(Error::MemberNotFound.into());
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: Some(self.store.header()) }))
    }
}
