//! Maintenance, members and health.

use super::conformance;

conformance!(status_and_members, hashes, alarms, refusals, health, housekeeping);

mod cases {
    use causeway_kvstore::pb::{self, alarm_request::AlarmAction, health};
    use tonic::Code;

    use super::super::common::Target;
    use super::super::{delete, get, put, refusal};

    pub(super) async fn status_and_members(t: Target) {
        let before = t.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        t.kv().put(put("k", &"x".repeat(100_000))).await.unwrap();
        let status = t.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        let header = status.header.unwrap();
        assert_eq!(status.leader, header.member_id, "it leads itself");
        // etcd's grows in steps, ahead of its content.
        assert!(status.db_size >= status.db_size_in_use && status.db_size >= before.db_size);
        assert!(status.db_size_in_use > 0);
        // etcd has applied the write, but perhaps not yet what it tells itself once in a while.
        let applied = before.raft_index + 1..=status.raft_index;
        assert!(applied.contains(&status.raft_applied_index), "{before:?} {status:?}");
        assert!(status.errors.is_empty() && !status.is_learner && !status.version.is_empty());
        let list = pb::MemberListRequest { linearizable: true };
        let members = t.cluster().member_list(list).await.unwrap().into_inner();
        let [member] = &members.members[..] else { panic!("one member: {members:?}") };
        assert_eq!((member.id, members.header.unwrap().cluster_id), (header.member_id, header.cluster_id));
        assert_eq!(member.client_ur_ls, [format!("http://{}", t.address)]);
        assert!(!member.name.is_empty() && !member.peer_ur_ls.is_empty());
    }

    pub(super) async fn hashes(t: Target) {
        let (mut kv, mut maintenance) = (t.kv(), t.maintenance());
        let mut hash = async |revision| {
            let answer = maintenance.hash_kv(pb::HashKvRequest { revision }).await;
            answer.map(tonic::Response::into_inner).map_err(refusal)
        };
        kv.put(put("a", "1")).await.unwrap();
        let one = hash(0).await.unwrap();
        assert_eq!((one.header.unwrap().revision, one.compact_revision), (2, -1));
        kv.put(put("a", "2")).await.unwrap();
        let two = hash(0).await.unwrap();
        assert_ne!(one.hash, two.hash);
        assert_eq!(hash(2).await.unwrap().hash, one.hash, "of an old revision");
        let text =
            |text: &str| Err((Code::OutOfRange, format!("etcdserver: mvcc: required revision {text}")));
        assert_eq!(hash(4).await, text("is a future revision"));
        kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();
        for compacted in [2, 3] {
            assert_eq!(hash(compacted).await, text("has been compacted"));
        }
        kv.put(put("b", "1")).await.unwrap();
        let asked = hash(4).await.unwrap();
        assert_eq!((asked.compact_revision, asked.hash), (3, hash(0).await.unwrap().hash));
        assert_ne!(t.maintenance().hash(pb::HashRequest {}).await.unwrap().into_inner().hash, 0);
    }

    pub(super) async fn alarms(t: Target) {
        let mut kv = t.kv();
        let mut maintenance = t.maintenance();
        let mut alarm = async |action: AlarmAction, alarm: pb::AlarmType, member_id| {
            let request = pb::AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 };
            maintenance.alarm(request).await.unwrap().into_inner()
        };
        let none = alarm(AlarmAction::Get, pb::AlarmType::None, 0).await;
        assert_eq!(none.alarms, []);
        let status = t.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        let member_id = status.header.unwrap().member_id;
        kv.put(put("k", "v")).await.unwrap();
        let lease =
            t.lease().lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 5 }).await.unwrap().into_inner();
        let raised = [pb::AlarmMember { member_id, alarm: pb::AlarmType::Nospace as i32 }];
        assert_eq!(alarm(AlarmAction::Activate, pb::AlarmType::Nospace, member_id).await.alarms, raised);
        assert_eq!(alarm(AlarmAction::Get, pb::AlarmType::None, 0).await.alarms, raised);
        assert_eq!(alarm(AlarmAction::Get, pb::AlarmType::Nospace, 0).await.alarms, raised);
        assert_eq!(alarm(AlarmAction::Get, pb::AlarmType::Corrupt, 0).await.alarms, []);
        let status = t.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.errors, [format!("memberID:{member_id} alarm:NOSPACE ")]);
        // Nothing is added, everything else goes on.
        let full = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned());
        assert_eq!(refusal(kv.put(put("k", "w")).await.unwrap_err()), full);
        let adds = |op| pb::TxnRequest { success: vec![super::super::op(op)], ..Default::default() };
        let put = pb::request_op::Request::RequestPut(put("k", "w"));
        assert_eq!(refusal(kv.txn(adds(put)).await.unwrap_err()), full);
        let granted = t.lease().lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 6 }).await;
        assert_eq!(refusal(granted.unwrap_err()), full);
        let asked = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: lease.id }]);
        let mut kept = t.lease().lease_keep_alive(asked).await.unwrap().into_inner();
        assert_eq!(kept.message().await.unwrap().unwrap().ttl, 100);
        assert_eq!(kv.range(get("k")).await.unwrap().into_inner().kvs[0].value, "v");
        let drop = pb::request_op::Request::RequestDeleteRange(delete("k"));
        assert!(kv.txn(adds(drop)).await.unwrap().into_inner().succeeded);
        assert_eq!(kv.delete_range(delete("k")).await.unwrap().into_inner().deleted, 0);
        t.lease().lease_revoke(pb::LeaseRevokeRequest { id: lease.id }).await.unwrap();
        assert_eq!(alarm(AlarmAction::Deactivate, pb::AlarmType::Nospace, member_id).await.alarms, raised);
        assert_eq!(alarm(AlarmAction::Deactivate, pb::AlarmType::Nospace, member_id).await.alarms, []);
        kv.put(super::super::put("k", "w")).await.unwrap();
    }

    pub(super) async fn refusals(t: Target) {
        let other = t.maintenance().move_leader(pb::MoveLeaderRequest { target_id: 1 }).await;
        assert!(other.is_err());
    }

    pub(super) async fn health(t: Target) {
        let mut client = health::health_client::HealthClient::new(t.channel.clone());
        let check = |service: &str| health::HealthCheckRequest { service: service.to_owned() };
        let serving = health::health_check_response::ServingStatus::Serving as i32;
        assert_eq!(client.check(check("")).await.unwrap().into_inner().status, serving);
        assert_eq!(client.check(check("nothing")).await.unwrap_err().code(), Code::NotFound);
        let mut watch = client.watch(check("")).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, serving);
    }

    pub(super) async fn housekeeping(t: Target) {
        t.kv().put(put("k", "v")).await.unwrap();
        t.maintenance().defragment(pb::DefragmentRequest {}).await.unwrap();
        let mut parts = t.maintenance().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        let mut bytes = Vec::new();
        let mut left = None;
        while let Some(part) = parts.message().await.unwrap() {
            assert!(left.is_none_or(|left| left == part.remaining_bytes + part.blob.len() as u64));
            // etcd does not count the checksum.
            left = (part.remaining_bytes > 32).then_some(part.remaining_bytes);
            bytes.extend_from_slice(&part.blob);
        }
        assert_eq!(bytes.len() % 512, 32, "pages and a SHA-256");
        assert_eq!(t.kv().range(get("k")).await.unwrap().into_inner().count, 1);
    }
}
