//! Our client, against both servers.

use super::conformance;

conformance!(list_and_watch_as_one_stream, a_list_that_is_refused_ends, a_kept_lease_lives_until_revoked);

mod cases {
    use std::collections::BTreeMap;

    use causeway_kvstore::client::{Client, ClientConfig, ClientError, ListWatch};
    use causeway_kvstore::{KeyRange, pb};
    use futures::StreamExt;

    use super::super::common::{PATIENCE, Target};

    async fn client(t: &Target) -> Client {
        let config = ClientConfig {
            // The first does not answer: the second is used then, whatever the order of trying.
            endpoints: vec!["http://127.0.0.1:1".into(), format!("http://{}", t.address)],
            tls: None,
            resolve: BTreeMap::new(),
            timeout: PATIENCE,
        };
        Client::connect(&config).await.unwrap()
    }

    pub(super) async fn list_and_watch_as_one_stream(t: Target) {
        let client = client(&t).await;
        for n in 0..300 {
            client.put(format!("lw/{n:03}"), "listed", 0).await.unwrap();
        }
        let mut stream = Box::pin(client.list_watch(KeyRange::prefix("lw/")));
        let next = async |stream: &mut std::pin::Pin<Box<_>>| {
            let item: Option<Result<ListWatch, ClientError>> =
                tokio::time::timeout(PATIENCE, StreamExt::next(stream)).await.expect("nothing comes");
            item.expect("the stream ended").unwrap()
        };
        let ListWatch::Listed(first) = next(&mut stream).await else { panic!("no page") };
        assert_eq!(first.len(), 256);
        let during = client.put("lw/299", "during", 0).await.unwrap().header.unwrap().revision;
        let ListWatch::Listed(rest) = next(&mut stream).await else { panic!("no second page") };
        assert_eq!((rest.len(), rest[43].value.as_ref()), (44, &b"listed"[..]), "one revision for all pages");
        let ListWatch::Synced(header) = next(&mut stream).await else { panic!("not synced") };
        assert_eq!(header.revision, during - 1);
        client.put("other", "unseen", 0).await.unwrap();
        client.put("lw/new", "later", 0).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let ListWatch::Changed(_, events) = next(&mut stream).await else { panic!("not a change") };
            seen.extend(events.into_iter().map(|e| e.kv.unwrap().value));
        }
        assert_eq!(seen, ["during", "later"]);
    }

    pub(super) async fn a_list_that_is_refused_ends(t: Target) {
        let client = client(&t).await;
        let mut stream = Box::pin(client.list_watch(KeyRange::single("")));
        let refused = stream.next().await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("key is not provided"), "{refused}");
        assert!(stream.next().await.is_none());
    }

    pub(super) async fn a_kept_lease_lives_until_revoked(t: Target) {
        let client = client(&t).await;
        let lease = client.lease_grant(3).await.unwrap();
        client.put("kept", "v", lease.id).await.unwrap();
        let keeper = tokio::spawn({
            let client = client.clone();
            async move { client.keep_lease(lease.id, lease.ttl).await }
        });
        // Longer than the lease by itself would live.
        tokio::time::sleep(std::time::Duration::from_secs(lease.ttl.unsigned_abs() + 2)).await;
        assert_eq!(client.get("kept").await.unwrap().count, 1);
        client.lease_revoke(lease.id).await.unwrap();
        let lost = tokio::time::timeout(PATIENCE, keeper).await.unwrap().unwrap();
        assert!(matches!(lost, ClientError::LeaseNotFound), "{lost}");
        let gone = pb::RangeRequest { key: "kept".into(), ..Default::default() };
        assert_eq!(client.range(gone).await.unwrap().count, 0);
    }
}
