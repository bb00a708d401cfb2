//! The same random requests to ours and to a real etcd: every answer, revision, refusal and watch
//! event must be the same. Both live through all cases, so their revisions stay equal throughout.

use causeway_kvstore::pb::{
    self,
    range_request::{SortOrder, SortTarget},
    response_op::Response as Done,
    watch_request::RequestUnion,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::common::{PATIENCE, Target};
use super::refusal;
use super::requests::{Call, call};

/// Sequences tried; each has up to [`LENGTH`] requests. `PROPTEST_CASES` overrides it.
const CASES: u32 = 96;
const LENGTH: usize = 24;

/// What may differ between two servers: their ids and terms, and the order among equals.
fn plain(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

fn plain_range(response: &mut pb::RangeResponse, sorted: bool) {
    plain(&mut response.header);
    if sorted {
        response.kvs.sort_by(|a, b| a.key.cmp(&b.key));
    }
}

fn plain_txn(response: &mut pb::TxnResponse) {
    plain(&mut response.header);
    for inner in &mut response.responses {
        match inner.response.as_mut().unwrap() {
            // Inside a transaction it is not known here which answer was sorted by what.
            Done::ResponseRange(r) => plain_range(r, true),
            Done::ResponsePut(r) => plain(&mut r.header),
            Done::ResponseDeleteRange(r) => plain(&mut r.header),
            Done::ResponseTxn(r) => plain_txn(r),
        }
    }
}

/// An answer in a form that can be compared.
async fn ask(target: &Target, call: Call) -> Result<String, (tonic::Code, String)> {
    let (mut kv, mut lease) = (target.kv(), target.lease());
    let answer: Result<String, Status> = async {
        Ok(match call {
            Call::Range(request) => {
                let mut response = kv.range(request.clone()).await?.into_inner();
                check_sorted(&request, &response.kvs);
                plain_range(&mut response, request.sort_target != SortTarget::Key as i32);
                format!("{response:?}")
            }
            Call::Put(request) => {
                let mut response = kv.put(request).await?.into_inner();
                plain(&mut response.header);
                format!("{response:?}")
            }
            Call::Delete(request) => {
                let mut response = kv.delete_range(request).await?.into_inner();
                plain(&mut response.header);
                format!("{response:?}")
            }
            Call::Txn(request) => {
                let mut response = kv.txn(request).await?.into_inner();
                plain_txn(&mut response);
                format!("{response:?}")
            }
            Call::Grant(id) => {
                let granted = lease.lease_grant(pb::LeaseGrantRequest { id, ttl: 3600 }).await?.into_inner();
                format!("{} {}", granted.id, granted.ttl)
            }
            Call::Revoke(id) => {
                let response = lease.lease_revoke(pb::LeaseRevokeRequest { id }).await?.into_inner();
                format!("{}", response.header.unwrap().revision)
            }
            Call::Compact(revision) => {
                let request = pb::CompactionRequest { revision, physical: true };
                format!("{}", kv.compact(request).await?.into_inner().header.unwrap().revision)
            }
        })
    }
    .await;
    answer.map_err(refusal)
}

fn check_sorted(request: &pb::RangeRequest, kvs: &[pb::KeyValue]) {
    let number: fn(&pb::KeyValue) -> i64 = match SortTarget::try_from(request.sort_target).unwrap() {
        SortTarget::Version => |kv| kv.version,
        SortTarget::Create => |kv| kv.create_revision,
        SortTarget::Mod => |kv| kv.mod_revision,
        SortTarget::Key | SortTarget::Value => return,
    };
    let descending = request.sort_order == SortOrder::Descend as i32;
    let ordered = |a: &pb::KeyValue, b: &pb::KeyValue| {
        if descending { number(a) >= number(b) } else { number(a) <= number(b) }
    };
    assert!(kvs.is_sorted_by(ordered), "{request:?}: {kvs:?}");
}

async fn present(target: &Target) -> i64 {
    let nothing = pb::RangeRequest { key: "a".into(), count_only: true, ..Default::default() };
    target.kv().range(nothing).await.unwrap().into_inner().header.unwrap().revision
}

struct Events {
    _requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
}

impl Events {
    async fn from(target: &Target, start_revision: i64) -> Self {
        let create = pb::WatchCreateRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            start_revision,
            prev_kv: true,
            ..Default::default()
        };
        let (requests, receiver) = tokio::sync::mpsc::channel(1);
        let request_union = Some(RequestUnion::CreateRequest(create));
        requests.send(pb::WatchRequest { request_union }).await.unwrap();
        let answers = target.watch().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { _requests: requests, answers }
    }

    /// All events up to and including `revision`, in order.
    async fn until(mut self, revision: i64) -> Vec<pb::Event> {
        let mut events = Vec::new();
        let reached = |events: &[pb::Event]| {
            events.last().is_some_and(|e: &pb::Event| e.kv.as_ref().unwrap().mod_revision >= revision)
        };
        while !reached(&events) {
            let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("no event");
            events.extend(answer.unwrap().expect("the stream ended").events);
        }
        events
    }
}

/// Brings both to the same revision without keys and leases, also after a case that failed.
async fn align(ours: &Target, etcd: &Target) -> i64 {
    let everything =
        pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: false };
    for target in [ours, etcd] {
        for id in 1..=3 {
            // Most of them do not exist.
            let _ = target.lease().lease_revoke(pb::LeaseRevokeRequest { id }).await;
        }
        target.kv().delete_range(everything.clone()).await.unwrap();
    }
    loop {
        let (a, b) = (present(ours).await, present(etcd).await);
        if a == b {
            return a;
        }
        let behind = if a < b { ours } else { etcd };
        let step = pb::PutRequest { key: "step".into(), ..Default::default() };
        behind.kv().put(step.clone()).await.unwrap();
        if a.abs_diff(b) > 1 {
            let key = step.key;
            behind.kv().delete_range(pb::DeleteRangeRequest { key, ..Default::default() }).await.unwrap();
        } else {
            // Both have a key too many or none.
            for target in [ours, etcd] {
                target.kv().put(step.clone()).await.unwrap();
                target.kv().delete_range(everything.clone()).await.unwrap();
            }
        }
    }
}

async fn same(ours: &Target, etcd: &Target, calls: Vec<Call>) -> Result<(), TestCaseError> {
    let first = align(ours, etcd).await;
    let watches = (Events::from(ours, first + 1).await, Events::from(etcd, first + 1).await);
    for mut call in calls {
        let now = present(ours).await;
        match &mut call {
            Call::Compact(back) => *back = (first - *back).max(1),
            call => call.resolve(now),
        }
        let (a, b) = (ask(ours, call.clone()).await, ask(etcd, call.clone()).await);
        prop_assert_eq!(a, b, "left is ours, right is etcd: {:?}", call);
    }
    let last = pb::PutRequest { key: "last".into(), ..Default::default() };
    let end = ours.kv().put(last.clone()).await.unwrap().into_inner().header.unwrap().revision;
    etcd.kv().put(last).await.unwrap();
    prop_assert_eq!(watches.0.until(end).await, watches.1.until(end).await, "events: left is ours");
    Ok(())
}

fn random_requests(ours: impl Future<Output = Target>, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ours, etcd) = runtime.block_on(async { (ours.await, Target::etcd().await) });
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    // The servers go on from case to case, so a failed case is not one for a regression file.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config)
        .run(&prop::collection::vec(call(), 1..=LENGTH), |calls| runtime.block_on(same(&ours, &etcd, calls)));
    drop((ours, etcd));
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn random_requests_get_etcds_answers() {
    random_requests(Target::ours(), CASES);
}

#[test]
fn random_requests_get_etcds_answers_from_the_durable_store() {
    random_requests(Target::durable(), CASES / 2);
}
