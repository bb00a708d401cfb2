//! Watches.

use super::conformance;

conformance!(
    many_watches_on_one_stream,
    from_the_past_with_previous_values,
    previous_values_in_one_transaction,
    whole_transactions_in_order,
    filters,
    compacted_starts,
    progress_on_request,
);

mod cases {
    use causeway_kvstore::pb::{
        self, event::EventType, request_op::Request as Op, watch_create_request::FilterType,
        watch_request::RequestUnion,
    };
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::Streaming;

    use super::super::common::{PATIENCE, Target};
    use super::super::{delete, get, op, prefix, put};

    /// A watch stream with what a client would keep of it.
    struct Stream {
        requests: mpsc::Sender<pb::WatchRequest>,
        answers: Streaming<pb::WatchResponse>,
    }

    impl Stream {
        /// etcd answers the call itself only with the first response, so the first request goes ahead.
        async fn open(t: &Target, first: pb::WatchCreateRequest) -> (Self, pb::WatchResponse) {
            let (requests, receiver) = mpsc::channel(8);
            let union = Some(RequestUnion::CreateRequest(first));
            requests.send(pb::WatchRequest { request_union: union }).await.unwrap();
            let answers = t.watch().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
            let mut stream = Self { requests, answers };
            let created = stream.next().await;
            (stream, created)
        }

        async fn send(&self, union: RequestUnion) {
            self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
        }

        async fn next(&mut self) -> pb::WatchResponse {
            let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
            let answer = answer.expect("no answer").unwrap().expect("the stream ended");
            assert!(answer.header.as_ref().is_some_and(|h| h.cluster_id != 0), "a header on every message");
            answer
        }

        /// `count` events of watch `id`; whatever else arrives is an error.
        async fn events(&mut self, id: i64, count: usize) -> Vec<pb::Event> {
            let mut events = Vec::new();
            while events.len() < count {
                let answer = self.next().await;
                assert_eq!(answer.watch_id, id, "{answer:?}");
                let last = answer.events.last().unwrap().kv.as_ref().unwrap().mod_revision;
                assert!(answer.header.unwrap().revision >= last);
                events.extend(answer.events);
            }
            assert_eq!(events.len(), count);
            events
        }
    }

    fn watch(range: pb::RangeRequest) -> pb::WatchCreateRequest {
        pb::WatchCreateRequest { key: range.key, range_end: range.range_end, ..Default::default() }
    }

    fn text(events: &[pb::Event]) -> Vec<String> {
        let show = |event: &pb::Event| {
            let kv = event.kv.as_ref().unwrap();
            let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
            match event.r#type {
                x if x == EventType::Put as i32 => format!("{key}={value}"),
                _ => format!("{key} gone"),
            }
        };
        events.iter().map(show).collect()
    }

    pub(super) async fn many_watches_on_one_stream(t: Target) {
        let mut kv = t.kv();
        let (mut stream, first) = Stream::open(&t, watch(prefix("a/"))).await;
        assert!(first.created && !first.canceled && first.events.is_empty() && first.watch_id >= 0);
        stream.send(RequestUnion::CreateRequest(watch(prefix("b/")))).await;
        let second = stream.next().await;
        assert!(second.created && second.watch_id != first.watch_id);
        let own = pb::WatchCreateRequest { watch_id: 1000, ..watch(get("c")) };
        stream.send(RequestUnion::CreateRequest(own.clone())).await;
        let third = stream.next().await;
        assert_eq!((third.created, third.watch_id), (true, 1000));
        stream.send(RequestUnion::CreateRequest(own)).await;
        let twice = stream.next().await;
        assert_eq!((twice.created, twice.canceled, twice.watch_id), (true, true, -1));
        assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
        kv.put(put("b/1", "x")).await.unwrap();
        assert_eq!(text(&stream.events(second.watch_id, 1).await), ["b/1=x"]);
        kv.put(put("c", "y")).await.unwrap();
        assert_eq!(text(&stream.events(1000, 1).await), ["c=y"]);
        kv.put(put("cc", "not the one key")).await.unwrap();
        stream.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: second.watch_id })).await;
        let canceled = stream.next().await;
        assert_eq!(
            (canceled.canceled, canceled.watch_id, canceled.compact_revision),
            (true, second.watch_id, 0)
        );
        kv.put(put("b/2", "unseen")).await.unwrap();
        kv.put(put("a/1", "z")).await.unwrap();
        assert_eq!(text(&stream.events(first.watch_id, 1).await), ["a/1=z"]);
    }

    pub(super) async fn from_the_past_with_previous_values(t: Target) {
        let mut kv = t.kv();
        let start = kv.put(put("p", "1")).await.unwrap().into_inner().header.unwrap().revision;
        kv.put(put("p", "2")).await.unwrap();
        kv.delete_range(delete("p")).await.unwrap();
        kv.put(put("p", "3")).await.unwrap();
        let all = pb::WatchCreateRequest { start_revision: start, prev_kv: true, ..watch(get("p")) };
        let (mut stream, created) = Stream::open(&t, all).await;
        assert!(created.created);
        let events = stream.events(created.watch_id, 4).await;
        assert_eq!(text(&events), ["p=1", "p=2", "p gone", "p=3"]);
        let before: Vec<_> = events.iter().map(|e| e.prev_kv.as_ref().map(|kv| kv.value.to_vec())).collect();
        assert_eq!(before, [None, Some(b"1".to_vec()), Some(b"2".to_vec()), None]);
        let gone = events[2].kv.as_ref().unwrap();
        assert_eq!((gone.mod_revision, gone.create_revision, gone.version), (start + 2, 0, 0));
        // A start in the future is silence until then.
        let later = pb::WatchCreateRequest { start_revision: start + 5, ..watch(get("p")) };
        stream.send(RequestUnion::CreateRequest(later)).await;
        let later = stream.next().await.watch_id;
        for value in ["4", "5"] {
            kv.put(put("p", value)).await.unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let answer = stream.next().await;
            seen.extend(text(&answer.events).into_iter().map(|e| (answer.watch_id == later, e)));
        }
        seen.sort();
        assert_eq!(seen, [(false, "p=4".into()), (false, "p=5".into()), (true, "p=5".into())]);
    }

    pub(super) async fn previous_values_in_one_transaction(t: Target) {
        let mut kv = t.kv();
        kv.put(put("q", "old")).await.unwrap();
        // Everything from a key on may be deleted before a put of it, and a nested delete may follow
        // a nested put.
        let from = pb::DeleteRangeRequest { range_end: vec![0].into(), ..delete("q") };
        let nested = |request| {
            let txn = pb::TxnRequest { success: vec![op(request)], ..Default::default() };
            op(Op::RequestTxn(txn))
        };
        let success = [
            vec![op(Op::RequestDeleteRange(from)), op(Op::RequestPut(put("q", "new")))],
            vec![nested(Op::RequestPut(put("q", "newer"))), nested(Op::RequestDeleteRange(delete("q")))],
        ];
        let mut first = 0;
        for success in success {
            let done = kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap().into_inner();
            let revision = done.header.unwrap().revision;
            first = if first == 0 { revision } else { first };
        }
        let shown = |events: &[pb::Event]| -> Vec<_> {
            let value = |kv: &pb::KeyValue| String::from_utf8(kv.value.to_vec()).unwrap();
            let before = events.iter().map(|e| e.prev_kv.as_ref().map(value).unwrap_or_default());
            text(events)
                .into_iter()
                .zip(before)
                .map(|(event, before)| format!("{event} ({before})"))
                .collect()
        };
        let want = ["q gone (old)", "q=new ()", "q=newer (new)", "q gone (new)"];
        let all = pb::WatchCreateRequest { start_revision: first, prev_kv: true, ..watch(get("q")) };
        let (mut stream, created) = Stream::open(&t, all).await;
        assert_eq!(shown(&stream.events(created.watch_id, 4).await), want);
    }

    pub(super) async fn whole_transactions_in_order(t: Target) {
        let (mut stream, created) = Stream::open(&t, watch(prefix("t/"))).await;
        let success = ["t/3", "t/1", "other", "t/2"].map(|k| op(Op::RequestPut(put(k, "v")))).to_vec();
        t.kv().txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
        let answer = stream.next().await;
        assert_eq!(answer.watch_id, created.watch_id);
        assert_eq!(text(&answer.events), ["t/3=v", "t/1=v", "t/2=v"], "one revision in one answer, in order");
    }

    pub(super) async fn filters(t: Target) {
        let mut kv = t.kv();
        let without = |filter: FilterType| pb::WatchCreateRequest {
            filters: vec![filter.into()],
            ..watch(prefix("f/"))
        };
        let (mut deletes, a) = Stream::open(&t, without(FilterType::Noput)).await;
        let (mut puts, b) = Stream::open(&t, without(FilterType::Nodelete)).await;
        kv.put(put("f/1", "v")).await.unwrap();
        kv.delete_range(delete("f/1")).await.unwrap();
        kv.put(put("f/2", "v")).await.unwrap();
        kv.delete_range(delete("f/2")).await.unwrap();
        assert_eq!(text(&deletes.events(a.watch_id, 2).await), ["f/1 gone", "f/2 gone"]);
        assert_eq!(text(&puts.events(b.watch_id, 2).await), ["f/1=v", "f/2=v"]);
    }

    pub(super) async fn compacted_starts(t: Target) {
        let mut kv = t.kv();
        let first = kv.put(put("k", "1")).await.unwrap().into_inner().header.unwrap().revision;
        for value in ["2", "3", "4"] {
            kv.put(put("k", value)).await.unwrap();
        }
        let compacted = first + 2;
        kv.compact(pb::CompactionRequest { revision: compacted, physical: true }).await.unwrap();
        let from = |start_revision| pb::WatchCreateRequest { start_revision, ..watch(get("k")) };
        let (mut stream, created) = Stream::open(&t, from(first)).await;
        assert!(created.created && !created.canceled);
        let canceled = stream.next().await;
        assert_eq!((canceled.watch_id, canceled.canceled), (created.watch_id, true));
        assert_eq!(canceled.compact_revision, compacted);
        let (mut stream, created) = Stream::open(&t, from(compacted)).await;
        assert_eq!(text(&stream.events(created.watch_id, 2).await), ["k=3", "k=4"]);
    }

    pub(super) async fn progress_on_request(t: Target) {
        let (mut stream, _) = Stream::open(&t, watch(get("quiet"))).await;
        let revision = t.kv().put(put("other", "v")).await.unwrap().into_inner().header.unwrap().revision;
        stream.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
        assert_eq!(progress.header.unwrap().revision, revision);
    }
}
