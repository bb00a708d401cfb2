//! Leases.

use super::conformance;

conformance!(a_lease_holds_its_keys, a_lease_runs_out, lease_refusals);

mod cases {
    use causeway_kvstore::pb;
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::super::common::{PATIENCE, Target};
    use super::super::{get, prefix, put, refusal};

    pub(super) async fn a_lease_holds_its_keys(t: Target) {
        let (mut kv, mut lease) = (t.kv(), t.lease());
        let granted =
            lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 0 }).await.unwrap().into_inner();
        assert!(granted.id != 0 && granted.ttl == 600);
        let named = lease.lease_grant(pb::LeaseGrantRequest { ttl: 700, id: 42 }).await.unwrap().into_inner();
        assert_eq!((named.id, named.ttl), (42, 700));
        for key in ["l/b", "l/a", "l/moved"] {
            kv.put(pb::PutRequest { lease: granted.id, ..put(key, "v") }).await.unwrap();
        }
        kv.put(pb::PutRequest { lease: 42, ..put("l/moved", "v") }).await.unwrap();
        let ask = |id| pb::LeaseTimeToLiveRequest { id, keys: true };
        let mut left = lease.lease_time_to_live(ask(granted.id)).await.unwrap().into_inner();
        left.keys.sort();
        assert_eq!(left.keys, ["l/a", "l/b"]);
        assert_eq!(left.granted_ttl, 600);
        assert!((1..=600).contains(&left.ttl));
        let mut ids: Vec<_> = lease
            .lease_leases(pb::LeaseLeasesRequest {})
            .await
            .unwrap()
            .into_inner()
            .leases
            .iter()
            .map(|l| l.id)
            .collect();
        ids.sort_unstable();
        let mut expect = vec![granted.id, 42];
        expect.sort_unstable();
        assert_eq!(ids, expect);
        let asked = [42, granted.id, 99].map(|id| pb::LeaseKeepAliveRequest { id });
        let answers = lease.lease_keep_alive(tokio_stream::iter(asked)).await.unwrap().into_inner();
        let answers: Vec<_> = answers.take(3).map(|a| a.map(|a| (a.id, a.ttl)).unwrap()).collect().await;
        assert_eq!(answers, [(42, 700), (granted.id, 600), (99, 0)]);
        let before = kv.range(get("l/a")).await.unwrap().into_inner().header.unwrap().revision;
        lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await.unwrap();
        let rest = kv.range(prefix("l/")).await.unwrap().into_inner();
        assert_eq!((rest.count, rest.header.unwrap().revision), (1, before + 1), "two keys, one revision");
        let gone = lease.lease_time_to_live(ask(granted.id)).await.unwrap().into_inner();
        assert_eq!((gone.ttl, gone.granted_ttl), (-1, 0));
    }

    pub(super) async fn a_lease_runs_out(t: Target) {
        let (mut kv, mut lease) = (t.kv(), t.lease());
        let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().into_inner();
        assert!((1..=5).contains(&granted.ttl), "the server may raise it a little: {}", granted.ttl);
        for key in ["x/1", "x/2"] {
            kv.put(pb::PutRequest { lease: granted.id, ..put(key, "v") }).await.unwrap();
        }
        let revision = kv.range(prefix("x/")).await.unwrap().into_inner().header.unwrap().revision;
        let expired = async {
            loop {
                let left = kv.range(prefix("x/")).await.unwrap().into_inner();
                if left.count == 0 {
                    return left.header.unwrap().revision;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, expired).await.unwrap(), revision + 1);
    }

    pub(super) async fn lease_refusals(t: Target) {
        let mut lease = t.lease();
        let grant = |id, ttl| pb::LeaseGrantRequest { ttl, id };
        lease.lease_grant(grant(7, 100)).await.unwrap();
        assert_eq!(
            refusal(lease.lease_grant(grant(7, 100)).await.unwrap_err()),
            (Code::FailedPrecondition, "etcdserver: lease already exists".into())
        );
        assert_eq!(
            refusal(lease.lease_grant(grant(8, 9_000_000_001)).await.unwrap_err()),
            (Code::OutOfRange, "etcdserver: too large lease TTL".into())
        );
        assert_eq!(
            refusal(lease.lease_revoke(pb::LeaseRevokeRequest { id: 8 }).await.unwrap_err()),
            (Code::NotFound, "etcdserver: requested lease not found".into())
        );
    }
}
