//! Who takes new connections: affinity, reachability, steps and shares of clusters, traffic policies, zones.

use super::*;

#[test]
fn rows_of_selection() {
    let theirs = [remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"])];
    let (r, t, n) = (("10.1.0.1", 'r'), ("10.1.0.2", 't'), ("10.1.0.9", 'n'));
    let (l2, c) = ("10.1.0.2:8080", "10.3.0.1:8080@cls-c");
    let (l, b) = (LOCAL, REMOTE);
    let (none, local, remote) = (Affinity::None, Affinity::Local, Affinity::Remote);
    let remote_ips: &[&str] = &["10.2.0.1", "10.3.0.1"];
    // Affinity, local endpoints, whether the others share, who does not answer; who takes connections,
    // and who is known beside them.
    type Row<'a> =
        (&'a str, Affinity, &'a [(&'a str, char)], bool, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("absent: all", none, &[r, t], true, &[], &[l, b, c], &["10.1.0.2"]),
        ("absent: terminating while nothing is active", none, &[t], false, &[], &[l2], &[]),
        ("absent: one cluster does not answer", none, &[r], true, &["10.2.0.1"], &[l, c], &["10.2.0.1"]),
        ("absent: nobody answers, all are tried", none, &[], true, remote_ips, &[b, c], &[]),
        ("local: active", local, &[r, t], true, &[], &[l], &["10.1.0.2", "10.2.0.1", "10.3.0.1"]),
        (
            "local: a terminating one does not hold back failover",
            local,
            &[t],
            true,
            &[],
            &[b, c],
            &["10.1.0.2"],
        ),
        ("local: terminating, and no remote", local, &[t], false, &[], &[l2], &[]),
        ("local: none", local, &[], true, &[], &[b, c], &[]),
        ("local: not ready", local, &[n], true, &[], &[b, c], &[]),
        ("local: unhealthy stay listed", local, &[r], true, &["10.1.0.1"], &[b, c], &["10.1.0.1"]),
        (
            "local: unhealthy, and no remote healthy",
            local,
            &[r],
            true,
            &["10.1.0.1", "10.2.0.1", "10.3.0.1"],
            &[l],
            remote_ips,
        ),
        ("local: terminating, remotes unhealthy", local, &[t], true, remote_ips, &[l2], remote_ips),
        ("remote: active", remote, &[r], true, &[], &[b, c], &["10.1.0.1"]),
        ("remote: one of them healthy", remote, &[r], true, &["10.2.0.1"], &[c], &["10.1.0.1", "10.2.0.1"]),
        ("remote: no healthy one", remote, &[r], true, remote_ips, &[l], remote_ips),
        (
            "remote: no healthy one, local terminating counts",
            remote,
            &[t],
            true,
            remote_ips,
            &[l2],
            remote_ips,
        ),
        ("remote: none", remote, &[r, t], false, &[], &[l], &["10.1.0.2"]),
        ("remote: none, local terminating", remote, &[t], false, &[], &[l2], &[]),
        ("remote: nothing at all", remote, &[], false, &[], &[], &[]),
    ];
    for (name, affinity, endpoints, shared, down, want, beside) in rows {
        let remotes: &[_] = if *shared { &theirs } else { &[] };
        let mut m = merger(sharing(true, *affinity), endpoints, remotes);
        silent(&mut m, down);
        assert_eq!(backends(&m), *want, "{name}");
        assert_eq!(kept(&m), *beside, "{name}");
        // Who answers again is as before.
        let healthy = backends(&merger(sharing(true, *affinity), endpoints, remotes));
        m.apply_unreachable(down.iter().map(|ip| (ip.parse().unwrap(), false)));
        assert_eq!(backends(&m), healthy, "{name}");
    }
    // "not global": all local, whatever it prefers.
    let m = merger(sharing(false, remote), &[r, t], &theirs);
    assert_eq!((backends(&m), kept(&m)), (vec![l.to_owned()], vec!["10.1.0.2".to_owned()]));
}

#[test]
fn reachability_known_before_the_backend_counts_too() {
    let mut m = ServiceMerger::new();
    assert!(m.apply_unreachable([("10.2.0.1".parse().unwrap(), true)]).is_empty());
    m.apply_service(Event::Upsert(service(sharing(true, Affinity::None))));
    m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r')])));
    m.apply_remote(&cluster(1), Event::Upsert(remote(1, HTTP, &["10.2.0.1"])));
    assert_eq!((backends(&m), kept(&m)), (vec![LOCAL.to_owned()], vec!["10.2.0.1".to_owned()]));
    // Only news comes out.
    assert!(
        m.apply_unreachable([("10.2.0.1".parse().unwrap(), true), ("10.9.9.9".parse().unwrap(), true)])
            .is_empty()
    );
    assert_eq!(m.apply_unreachable([("10.2.0.1".parse().unwrap(), false)]).len(), 1);
}

fn preferring(order: &str, weights: &[(&str, u16)], remotes: &[ClusterService]) -> ServiceMerger {
    let name = |name: &str| (name != "local").then(|| ClusterName::new(name).unwrap());
    let mut m = ServiceMerger::at(Location { cluster: Some(cluster(0)), ..Location::default() });
    let mut svc = service(sharing(true, Affinity::None));
    svc.preference = Preference {
        order: order.split(',').filter(|word| !word.is_empty()).map(name).collect(),
        weights: weights.iter().map(|(of, weight)| (name(of), *weight)).collect(),
    };
    m.apply_service(Event::Upsert(svc));
    m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r'), ("10.1.0.2", 'r')])));
    for remote in remotes {
        m.apply_remote(&remote.cluster.clone(), Event::Upsert(remote.clone()));
    }
    m
}

#[test]
fn failover_in_steps() {
    let (b, c, d) =
        (remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"]), remote(3, HTTP, &["10.4.0.1"]));
    let remotes = [b, c, d];
    // cls-a is this cluster; those not named share the last step.
    for order in ["local,cls-c", "cls-a,cls-c", "cls-a,local,cls-c"] {
        let mut m = preferring(order, &[], &remotes);
        assert_eq!(backends(&m), [LOCAL, "10.1.0.2:8080"], "{order}");
        silent(&mut m, &["10.1.0.1"]);
        assert_eq!(backends(&m), ["10.1.0.2:8080"], "{order}");
        m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r')])));
        assert_eq!(backends(&m), ["10.3.0.1:8080@cls-c"], "{order}");
        silent(&mut m, &["10.3.0.1"]);
        assert_eq!(backends(&m), [REMOTE, "10.4.0.1:8080@cls-d"], "{order}");
        m.remove_cluster(&cluster(1));
        m.remove_cluster(&cluster(3));
        // Nobody is healthy: the first of the order is tried.
        assert_eq!(backends(&m), [LOCAL], "{order}");
        m.apply_unreachable([("10.3.0.1".parse().unwrap(), false)]);
        assert_eq!(backends(&m), ["10.3.0.1:8080@cls-c"], "{order}");
        m.apply_unreachable([("10.1.0.1".parse().unwrap(), false)]);
        assert_eq!(backends(&m), [LOCAL], "{order}");
    }
}

#[test]
fn clusters_get_their_shares_whatever_they_have() {
    let remotes = [remote(1, HTTP, &["10.2.0.1"]), remote(2, HTTP, &["10.3.0.1"])];
    // 90 over two backends, 10 over one.
    let mut m = preferring("", &[("local", 90), ("cls-b", 10)], &remotes);
    assert_eq!(backends(&m), ["10.1.0.1:8080*9", "10.1.0.2:8080*9", "10.2.0.1:8080@cls-b*2"]);
    assert_eq!(kept(&m), ["10.3.0.1"], "a cluster without a share");
    // Fewer backends share the same.
    m.apply_slice(Event::Upsert(slice("s1", "http", &[("10.1.0.1", 'r')])));
    assert_eq!(backends(&m), ["10.1.0.1:8080*9", REMOTE]);
    // One without a share takes over when nobody else is healthy.
    m.remove_cluster(&cluster(1));
    m.apply_slice(Event::Remove(SliceKey { namespace: "shop".into(), name: "s1".into() }));
    assert_eq!(backends(&m), ["10.3.0.1:8080@cls-c"]);
    // Draining a cluster; the order goes first, the shares are within a step.
    let m = preferring("", &[("local", 0), ("cls-b", 1), ("cls-c", 1)], &remotes);
    assert_eq!(backends(&m), [REMOTE, "10.3.0.1:8080@cls-c"]);
    let m = preferring("cls-b", &[("local", 3), ("cls-b", 1), ("cls-c", 1)], &remotes);
    assert_eq!(backends(&m), [REMOTE]);
}

/// Where each endpoint is: this node, another, or none.
fn on_nodes(mut slice: EndpointSlice, nodes: &[Option<&str>]) -> EndpointSlice {
    for (endpoint, node) in slice.endpoints.iter_mut().zip(nodes) {
        endpoint.node = node.map(ToOwned::to_owned);
    }
    slice
}

/// A LoadBalancer service with these policies outside and inside, on the node `n1`.
fn with_policies(
    policies: (TrafficPolicy, TrafficPolicy),
    affinity: Affinity,
    slice: EndpointSlice,
    remotes: &[ClusterService],
) -> ServiceMerger {
    let mut m = ServiceMerger::at(Location { node: Some("n1".into()), ..Location::default() });
    let mut svc = service(sharing(true, affinity));
    svc.kind = ServiceType::LoadBalancer;
    svc.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    (svc.external_traffic, svc.internal_traffic) = policies;
    svc.health_check_node_port = 31_000;
    m.apply_service(Event::Upsert(svc));
    m.apply_slice(Event::Upsert(slice));
    for remote in remotes {
        m.apply_remote(&remote.cluster.clone(), Event::Upsert(remote.clone()));
    }
    m
}

#[test]
fn rows_of_traffic_policy_local() {
    use TrafficPolicy::{Cluster, Local};
    let theirs = [remote(1, HTTP, &["10.2.0.1"])];
    let here = ("10.1.0.1", Some("n1"));
    let there = ("10.1.0.2", Some("n2"));
    let nowhere = ("10.1.0.3", None);
    let (l, b) = (LOCAL, REMOTE);
    // Affinity, the local endpoints with states and nodes; who takes connections under Local.
    type Row<'a> = (&'a str, Affinity, &'a [((&'a str, Option<&'a str>), char)], &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("this node's", Affinity::None, &[(here, 'r'), (there, 'r')], &[l]),
        (
            "an endpoint of no node counts as here",
            Affinity::None,
            &[(nowhere, 'r'), (there, 'r')],
            &["10.1.0.3:8080"],
        ),
        ("only another node has some: refused, as in Kubernetes", Affinity::None, &[(there, 'r')], &[]),
        ("terminating here, active there", Affinity::None, &[(here, 't'), (there, 'r')], &[l]),
        ("this cluster has none: other clusters", Affinity::None, &[], &[b]),
        ("this cluster has only terminating ones", Affinity::None, &[(here, 't')], &[b]),
        ("affinity local", Affinity::Local, &[(here, 'r'), (there, 'r')], &[l]),
        ("affinity remote", Affinity::Remote, &[(here, 'r'), (there, 'r')], &[b]),
    ];
    for (name, affinity, endpoints, want) in rows {
        let list: Vec<_> = endpoints.iter().map(|((ip, _), state)| (*ip, *state)).collect();
        let nodes: Vec<_> = endpoints.iter().map(|((_, node), _)| *node).collect();
        let slice = || on_nodes(slice("s1", "http", &list), &nodes);
        for policies in [(Local, Cluster), (Cluster, Local), (Local, Local)] {
            let m = with_policies(policies, *affinity, slice(), &theirs);
            let all = m.snapshot();
            let [inside, outside]: [&Frontend; 2] = all.values().collect::<Vec<_>>().try_into().unwrap();
            // The ClusterIP is only for clients inside; the load balancer's address has both lists.
            assert_eq!(inside.internal, None, "{name}");
            let inner = outside.internal.as_ref().unwrap_or(&outside.backends);
            assert_eq!(*inner, inside.backends, "{name}");
            assert_eq!(outside.internal.is_some(), policies.0 != policies.1, "{name}");
            for (policy, list) in [(policies.0, &outside.backends), (policies.1, inner)] {
                if policy == Local {
                    assert_eq!(taking(list), *want, "{name} {policies:?}");
                    assert!(
                        !list.iter().any(|b| b.address.ip.to_string() == "10.1.0.2"),
                        "{name}: not even listed"
                    );
                }
            }
        }
    }
    // Remote backends of no known node never count for load balancers that ask this node.
    let m = with_policies(
        (Local, Cluster),
        Affinity::None,
        on_nodes(slice("s1", "http", &[("10.1.0.2", 'r')]), &[Some("n2")]),
        &theirs,
    );
    assert_eq!(
        m.health_check(&key()),
        Some(HealthCheck { service: key(), port: 31_000, local_endpoints: 0 })
    );
    let m = with_policies(
        (Local, Cluster),
        Affinity::None,
        on_nodes(slice("s1", "http", &[("10.1.0.1", 'r')]), &[Some("n1")]),
        &theirs,
    );
    assert_eq!(m.health_check(&key()).unwrap().local_endpoints, 1);
    let m = with_policies((Cluster, Cluster), Affinity::None, slice("s1", "http", &[]), &theirs);
    assert_eq!(m.health_check(&key()), None);
}

#[test]
fn zone_hints_count_only_if_everybody_has_one() {
    let hinted = |zones: &[&str]| zones.iter().map(|zone| zone.to_string()).collect::<Vec<_>>();
    let build = |topology: bool, wanted: bool, hints: [&[&str]; 2], theirs: Option<&[&str]>| {
        let location = Location { zone: Some("z1".into()), topology, ..Location::default() };
        let mut m = ServiceMerger::at(location);
        m.apply_service(Event::Upsert(Service {
            prefer_zone: wanted,
            ..service(sharing(true, Affinity::None))
        }));
        let mut slice = slice("s1", "http", &[("10.1.0.1", 'r'), ("10.1.0.2", 'r')]);
        for (endpoint, hints) in slice.endpoints.iter_mut().zip(hints) {
            endpoint.for_zones = hinted(hints);
        }
        m.apply_slice(Event::Upsert(slice));
        let mut shared = remote(1, HTTP, &["10.2.0.1"]);
        if let Some(zones) = theirs {
            let zone = BackendZone { zone: String::new(), for_zones: hinted(zones) };
            shared.zones.insert("10.2.0.1".parse().unwrap(), Arc::new(zone));
        }
        m.apply_remote(&cluster(1), Event::Upsert(shared));
        m
    };
    let all = [LOCAL, "10.1.0.2:8080", REMOTE];
    let both: [&[&str]; 2] = [&["z1"], &["z2"]];
    let m = build(true, true, both, Some(&["z1", "z3"]));
    assert_eq!(
        (backends(&m), kept(&m)),
        (vec![LOCAL.to_owned(), REMOTE.to_owned()], vec!["10.1.0.2".to_owned()])
    );
    assert_eq!(backends(&build(true, true, both, Some(&["z2"]))), [LOCAL]);
    assert_eq!(backends(&build(true, true, both, None)), all, "a remote one without a hint");
    assert_eq!(
        backends(&build(true, true, [&["z1"], &[]], Some(&["z1"]))),
        all,
        "a local one without a hint"
    );
    assert_eq!(backends(&build(true, true, [&["z2"], &["z2"]], Some(&["z3"]))), all, "nobody for our zone");
    assert_eq!(backends(&build(false, true, both, Some(&["z2"]))), all, "enable-service-topology is off");
    assert_eq!(backends(&build(true, false, both, Some(&["z2"]))), all, "the service does not ask for it");
    // Those of the zone do not answer: the others are used. Hints change and nothing else does.
    let mut m = build(true, true, both, Some(&["z2"]));
    silent(&mut m, &["10.1.0.1"]);
    assert_eq!(backends(&m), ["10.1.0.2:8080", REMOTE]);
    let mut m = build(true, true, both, Some(&["z2"]));
    let mut shared = remote(1, HTTP, &["10.2.0.1"]);
    m.apply_remote(&cluster(1), Event::Upsert(shared.clone()));
    assert_eq!(backends(&m), all);
    let zone = BackendZone { zone: String::new(), for_zones: hinted(&["z1"]) };
    shared.zones.insert("10.2.0.1".parse().unwrap(), Arc::new(zone));
    m.apply_remote(&cluster(1), Event::Upsert(shared));
    assert_eq!(backends(&m), [LOCAL, REMOTE]);
}
