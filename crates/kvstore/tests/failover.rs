//! One address that leads to several stores, as a Service before replicas does: a client never takes
//! one store for the continuation of another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::client::{Client, ClientConfig, ClientError, ListWatch};
use causeway_kvstore::server::{Access, Server};
use causeway_kvstore::{KeyRange, Store, StoreOptions};
use futures::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of one store; gone when dropped.
struct Replica {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Replica {
    async fn of(store: &Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(Server::plaintext(store.clone(), Access::open()).serve(listener, stop.clone()));
        Self { address, _stop: stop.drop_guard() }
    }
}

/// Forwards connections to the present replica; they are cut when that becomes another one.
struct Proxy {
    address: SocketAddr,
    replica: Arc<watch::Sender<SocketAddr>>,
}

impl Proxy {
    async fn to(replica: &Replica) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replica = Arc::new(watch::Sender::new(replica.address));
        let sender = replica.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut present = sender.subscribe();
                let target = *present.borrow_and_update();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = present.changed() => {}
                    }
                });
            }
        });
        Self { address, replica }
    }

    fn switch(&self, replica: &Replica) {
        self.replica.send_replace(replica.address);
    }

    async fn client(&self) -> Client {
        let config = ClientConfig {
            endpoints: vec![format!("http://{}", self.address)],
            tls: None,
            resolve: BTreeMap::new(),
            timeout: PATIENCE,
        };
        Client::connect(&config).await.unwrap()
    }
}

fn filled(keys: usize) -> Store {
    let store = Store::new(StoreOptions::default());
    fill(&store, keys);
    store
}

fn fill(store: &Store, keys: usize) {
    for n in 0..keys {
        let put = causeway_kvstore::pb::PutRequest { key: format!("k/{n:03}").into(), ..Default::default() };
        store.put(put).unwrap();
    }
}

/// Asks until the answer is not that of a connection that was just cut.
async fn ask(client: &Client) -> Result<i64, ClientError> {
    let asked = tokio::time::timeout(PATIENCE, async {
        loop {
            match client.get("k/000").await {
                Err(ClientError::Status {
                    code: tonic::Code::Unavailable | tonic::Code::Unknown, ..
                }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                answer => return answer.map(|answer| answer.header.unwrap().revision),
            }
        }
    });
    asked.await.expect("the way is never there again")
}

#[tokio::test]
async fn another_store_is_not_taken_for_the_same() {
    let (a, b) = (filled(5), filled(20));
    let (on_a, on_b) = (Replica::of(&a).await, Replica::of(&b).await);
    let proxy = Proxy::to(&on_a).await;
    let client = proxy.client().await;
    assert_eq!(ask(&client).await.unwrap(), 6);
    proxy.switch(&on_b);
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error, ClientError::AnotherStore { .. }), "{error}");
    assert!(error.to_string().contains("listed again"), "{error}");
    // It does not get used to it: whoever holds this client must begin anew.
    assert!(matches!(ask(&client).await, Err(ClientError::AnotherStore { .. })));
    assert_eq!(ask(&proxy.client().await).await.unwrap(), 21);
}

#[tokio::test]
async fn a_list_that_is_continued_elsewhere_ends() {
    let (a, b) = (filled(400), filled(400));
    let (on_a, on_b) = (Replica::of(&a).await, Replica::of(&b).await);
    let proxy = Proxy::to(&on_a).await;
    let client = proxy.client().await;
    let mut following = Box::pin(client.list_watch(KeyRange::prefix("k/")));
    let Some(Ok(ListWatch::Listed(first))) = following.next().await else { panic!("no page") };
    assert_eq!(first.len(), 256);
    proxy.switch(&on_b);
    let next = tokio::time::timeout(PATIENCE, following.next()).await.expect("nothing comes");
    // Either the cut itself or the other store ends it; never a page of the other store.
    let error = next.expect("it ends with an error").unwrap_err();
    assert!(error.is_of_endpoint(), "{error}");
}

/// Copies a store that nobody has open.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_store_that_was_put_back_is_noticed_and_one_that_was_restarted_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data, earlier) = (dir.path().join("data"), dir.path().join("earlier"));
    let open = |path: &Path| Store::open(path, StoreOptions::default()).unwrap();
    let store = open(&data);
    fill(&store, 5);
    drop(store);
    copy(&data, &earlier);
    let store = open(&data);
    fill(&store, 5);
    let replica = Replica::of(&store).await;
    let proxy = Proxy::to(&replica).await;
    let client = proxy.client().await;
    assert_eq!(ask(&client).await.unwrap(), 11);
    // The same store again: all is well, and what a watch has missed meanwhile is there.
    drop((replica, store));
    let store = reopened(&data).await;
    let replica = Replica::of(&store).await;
    proxy.switch(&replica);
    assert_eq!(ask(&client).await.unwrap(), 11);
    // What it was at an earlier time.
    let before = open(&earlier);
    assert_eq!((before.cluster_id(), before.revision()), (store.cluster_id(), 6));
    let put_back = Replica::of(&before).await;
    proxy.switch(&put_back);
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error, ClientError::WentBack { before: 11, now: 6, .. }), "{error}");
}

/// Opens a store whose server may still be ending.
async fn reopened(path: &Path) -> Store {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match Store::open(path, StoreOptions::default()) {
            Ok(store) => return store,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
