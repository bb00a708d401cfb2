//! What silence means, row by row, in virtual time.

use std::time::Duration;

use causeway_model::Event;

use super::sim::{GATEWAY, World, cluster, key, target};
use super::{Kind, MAX_NODES, MAX_RATE, NodeStatus, Options};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What the machine itself may take in these tests, where answers take 20 ms.
const SLACK: Duration = ms(60);

/// Two nodes of the own cluster, two of another one.
fn mesh(seed: u64) -> World {
    World::new(seed, true).with(&[(1, 1), (1, 2), (2, 1), (2, 2)])
}

#[test]
fn a_dead_node_is_noticed_within_three_seconds_from_any_phase_and_comes_back_by_itself() {
    let worst = Options::default().worst_case();
    assert!(worst + SLACK < s(3), "{worst:?}");
    for phase in (0..1200).step_by(23) {
        let mut world = mesh(phase);
        world.run(s(5) + ms(phase));
        assert_eq!(world.changes, [], "nodes begin as if they were reachable");
        world.set(2, 1, false);
        let died = world.now;
        world.run(s(20));
        let changes = world.changed(died);
        let [(node, false, took)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(*node, key(2, 1));
        assert!(*took < worst + SLACK, "phase {phase}: {took:?}");
        assert!(*took >= ms(1000), "three questions are asked: {took:?}");
        assert_eq!(world.status(2, 1), NodeStatus::Unreachable);
        world.set(2, 1, true);
        let back = world.now;
        world.run(s(20));
        let changes = world.changed(back);
        let [(node, true, took)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(*node, key(2, 1));
        assert!(*took < ms(1100 + 500 + 20) + SLACK, "phase {phase}: {took:?}");
    }
}

#[test]
fn either_kind_of_answer_is_enough() {
    for kind in [Kind::Icmp, Kind::Http] {
        let mut world = mesh(7);
        let node = target(2, 1);
        let address = if kind == Kind::Icmp { node.internal } else { node.health };
        // From the start, and later.
        for _ in 0..2 {
            world.deaf.insert((address.unwrap(), kind));
            world.run(s(120));
            assert_eq!((world.changes.as_slice(), world.status(2, 1)), (&[][..], NodeStatus::Reachable));
            world.deaf.clear();
            world.run(s(120));
        }
        world.deaf.insert((address.unwrap(), kind));
        world.run(s(30));
        world.set(2, 1, false);
        let died = world.now;
        world.run(s(10));
        let changes = world.changed(died);
        let [(_, false, took)] = &changes[..] else { panic!("{changes:?}") };
        assert!(*took < s(3), "{kind:?}: {took:?}");
        // It comes back with the other kind alone.
        world.deaf =
            [(if kind == Kind::Icmp { node.health } else { node.internal }.unwrap(), kind.other())].into();
        world.set(2, 1, true);
        world.run(s(30));
        assert_eq!(world.status(2, 1), NodeStatus::Reachable, "{kind:?}");
    }
}

#[test]
fn a_node_that_never_answered_is_unknown_and_stays_in_use() {
    let mut world = mesh(3);
    world.add(2, 3);
    world.run(s(300));
    assert_eq!((world.changes.as_slice(), world.status(2, 3)), (&[][..], NodeStatus::Unknown));
    assert_eq!((world.report().counts(true).unknown, world.report().counts(true).reachable), (1, 4));
    // Nothing to probe: no address inside the pod network.
    world.told(2, Event::Upsert(super::Target { internal: None, health: None, ..target(2, 4) }));
    world.run(s(60));
    assert_eq!(world.status(2, 4), NodeStatus::Unknown);
    world.told(2, Event::Upsert(target(2, 4)));
    world.set(2, 4, true);
    world.run(s(3));
    assert_eq!((world.changes.as_slice(), world.status(2, 4)), (&[][..], NodeStatus::Reachable));
}

#[test]
fn loss_delay_and_a_machine_that_stands_still_are_no_death() {
    let mut world = mesh(11);
    world.loss = 50;
    world.run(s(3600));
    assert_eq!(world.changes, [], "five of a hundred are lost");
    world.loss = 0;
    // Answers that always come late are answers.
    world.rtt = ms(700);
    world.run(s(600));
    assert_eq!(world.changes, []);
    world.rtt = ms(20);
    for _ in 0..50 {
        world.run(ms(4321));
        world.stall(s(7));
        world.run(ms(100));
    }
    assert_eq!(world.changes, [], "nobody was asked meanwhile");
}

#[test]
fn what_flaps_comes_back_later_each_time() {
    let mut world = mesh(5);
    world.run(s(5));
    let fall = |world: &mut World| {
        world.set(2, 1, false);
        world.run(s(4));
        assert_eq!(world.status(2, 1), NodeStatus::Unreachable);
        world.set(2, 1, true);
        let back = world.now;
        world.changes.clear();
        world.run(s(11));
        let changes = world.changed(back);
        let [(_, true, took)] = &changes[..] else { panic!("{changes:?}") };
        *took
    };
    // 2, 4, 8, 16 answers, half a second apart, and never more.
    for answers in [2, 4, 8] {
        let took = fall(&mut world);
        let fewest = ms(500) * (answers - 1);
        assert!(took >= fewest && took <= fewest + ms(1100 + 40) + SLACK, "{answers}: {took:?}");
    }
    for _ in 0..3 {
        let took = fall(&mut world);
        assert!(took >= ms(3500) && took <= ms(500 * 15 + 1100 + 400) + SLACK, "{took:?}");
    }
    world.run(s(70));
    assert!(fall(&mut world) < ms(1700), "after a quiet minute it is as before");
}

#[test]
fn who_reaches_nobody_blames_nobody() {
    for gateway in [true, false] {
        let mut world = World::new(9, gateway).with(&[(1, 1), (2, 1), (2, 2)]);
        world.run(s(15));
        world.uplink = false;
        world.run(s(120));
        assert_eq!(world.changes, [], "gateway {gateway}");
        assert_eq!(world.report().held, 3);
        assert!(world.node(2, 1).held);
        // One dies meanwhile; then the uplink is back.
        world.set(2, 2, false);
        world.uplink = true;
        let back = world.now;
        world.run(s(30));
        let changes = world.changed(back);
        let [(node, false, took)] = &changes[..] else { panic!("gateway {gateway}: {changes:?}") };
        assert_eq!(*node, key(2, 2));
        assert!(*took < ms(1100) + ms(500) + s(3), "{took:?}");
        assert_eq!((world.report().held, world.status(2, 1)), (0, NodeStatus::Reachable));
    }
}

#[test]
fn the_other_node_of_a_mesh_of_two() {
    // There is nobody else to ask: its silence counts.
    let mut world = World::new(2, false).with(&[(2, 1)]);
    world.run(s(15));
    world.set(2, 1, false);
    let died = world.now;
    world.run(s(10));
    let changes = world.changed(died);
    assert!(matches!(changes[..], [(_, false, took)] if took < s(3)), "{changes:?}");

    // The gateway tells its death from ours.
    let mut world = World::new(2, true).with(&[(2, 1)]);
    world.run(s(15));
    world.uplink = false;
    world.run(s(30));
    assert_eq!(world.changes, []);
    world.uplink = true;
    world.run(s(10));
    assert_eq!((world.changes.as_slice(), world.report().held), (&[][..], 0));
    world.set(2, 1, false);
    let died = world.now;
    world.run(s(10));
    let changes = world.changed(died);
    assert!(matches!(changes[..], [(_, false, took)] if took < s(3)), "{changes:?}");
    // While both are silent nothing is said; with the gateway's answer it is.
    let mut world = World::new(4, true).with(&[(2, 1)]);
    world.run(s(15));
    world.uplink = false;
    world.set(2, 1, false);
    world.run(s(30));
    world.uplink = true;
    world.run(s(6));
    assert_eq!(world.status(2, 1), NodeStatus::Unreachable);
}

#[test]
fn a_whole_cluster_that_is_cut_off() {
    // Without another node of our own, the gateway is the witness; without one we do not know.
    for (gateway, own, falls) in
        [(true, false, true), (false, true, true), (true, true, true), (false, false, false)]
    {
        let mut world = World::new(6, gateway).with(&[(2, 1), (2, 2), (2, 3)]);
        if own {
            world = world.with(&[(1, 1)]);
        }
        world.run(s(15));
        for n in 1..=3 {
            world.set(2, n, false);
        }
        let died = world.now;
        world.run(s(10));
        let changes = world.changed(died);
        let fallen = changes.iter().filter(|(_, up, took)| !up && *took < s(3)).count();
        assert_eq!((fallen, changes.len()), if falls { (3, 3) } else { (0, 0) }, "{gateway} {own}");
    }
}

#[test]
fn a_tunnel_that_is_broken() {
    // To one node: it is unreachable, and the report says that it lives.
    let mut world = mesh(8);
    world.run(s(90));
    world.set_tunnel(2, 1, false);
    let died = world.now;
    world.run(s(10));
    let changes = world.changed(died);
    assert!(matches!(changes[..], [(_, false, took)] if took < s(3)), "{changes:?}");
    let node = world.node(2, 1);
    assert_eq!((node.status, node.outside), (NodeStatus::Unreachable, NodeStatus::Reachable));
    assert_eq!(world.report().counts(false).reachable, 4);
    assert_eq!(node.tunnel_icmp.answered, Some(false));
    assert!(node.tunnel_icmp.fault.unwrap().contains("500 ms"));
    assert_eq!(node.underlay_icmp.latency_ms, Some(20.0));
    // Dead altogether: what was heard before is no sign of life.
    world.set(2, 1, false);
    world.run(s(3));
    assert_eq!(world.node(2, 1).outside, NodeStatus::Unreachable);
    // To all of them: it is ours.
    let mut world = mesh(8);
    world.run(s(15));
    for (of, n) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        world.set_tunnel(of, n, false);
    }
    world.run(s(60));
    assert_eq!((world.changes.as_slice(), world.report().held), (&[][..], 4));
}

#[test]
fn nodes_come_and_go() {
    let mut world = mesh(1);
    // Our own is not asked.
    world.add(1, 0);
    world.run(s(5));
    assert!(world.sent.iter().all(|(_, to)| Some(*to) != target(1, 0).internal));
    assert_eq!((world.report().nodes.len(), world.report().not_probed), (4, 0));

    // A node that is down and is removed: its pods stay unreachable for a while, then nothing is known of them.
    world.set(2, 1, false);
    world.run(s(5));
    world.changes.clear();
    world.told(2, Event::Remove(key(2, 1)));
    let removed = world.now;
    world.run(s(290));
    assert_eq!(world.changes, []);
    world.run(s(20));
    let changes = world.changed(removed);
    assert!(matches!(&changes[..], [(node, true, _)] if *node == key(2, 1)), "{changes:?}");

    // The same is announced again: still down. Another with its address is not.
    world.set(2, 2, false);
    world.add(2, 3);
    world.set(2, 3, true);
    world.run(s(5));
    world.told(2, Event::Remove(key(2, 2)));
    world.add(2, 2);
    assert_eq!(world.status(2, 2), NodeStatus::Unreachable);
    world.told(2, Event::Remove(key(2, 2)));
    world.changes.clear();
    world.told(2, Event::Upsert(super::Target { hosts: target(2, 2).hosts, ..target(2, 4) }));
    let changes = world.changed(removed);
    assert!(matches!(&changes[..], [(node, true, _)] if *node == key(2, 2)), "{changes:?}");
    assert_eq!(world.status(2, 4), NodeStatus::Unknown);

    // Another address while it is down.
    world.set(2, 3, false);
    world.run(s(5));
    world.changes.clear();
    let moved = super::Target { hosts: [GATEWAY].into(), ..target(2, 3) };
    world.told(2, Event::Upsert(moved));
    let hosts: Vec<_> = world.changes.iter().map(|(_, change)| (change.hosts[0], change.reachable)).collect();
    assert_eq!(hosts, [(target(2, 3).hosts[0], true), (GATEWAY, false)]);

    // A new listing without it, and the end of the peer: nothing of it is asked any more.
    world.told(2, Event::Reset);
    world.told(2, Event::Synced);
    assert_eq!(world.report().nodes.len(), 2);
    world.changes.clear();
    world.monitor.remove_cluster(&cluster("c-2"), world.now);
    assert!(world.monitor.take_changes().iter().all(|change| change.reachable));
    world.run(s(5));
    world.sent.clear();
    world.run(s(120));
    assert!(world.sent.iter().all(|(_, to)| Some(*to) != target(2, 3).internal));
    assert!(world.monitor.unreachable().is_empty());
}

#[test]
fn a_new_agent_knows_what_the_old_one_knew() {
    let mut world = mesh(1);
    world.run(s(5));
    world.set(2, 1, false);
    world.run(s(5));
    let known = world.monitor.unreachable();
    assert_eq!(known.iter().cloned().collect::<Vec<_>>(), [key(2, 1)]);

    let mut world = World::new(2, true);
    world.monitor.remember([key(2, 1), key(2, 9)]);
    assert_eq!(world.monitor.unreachable().len(), 2, "until the cluster has been read");
    let start = world.now;
    let mut world = world.with(&[(1, 1), (2, 1), (2, 2)]);
    world.set(2, 1, false);
    world.told(2, Event::Synced);
    world.run(s(60));
    let changes = world.changed(start);
    assert!(
        matches!(&changes[..], [(node, false, took)] if *node == key(2, 1) && took.is_zero()),
        "{changes:?}"
    );
    assert_eq!(world.monitor.unreachable().into_iter().collect::<Vec<_>>(), [key(2, 1)]);
    world.set(2, 1, true);
    world.run(s(3));
    assert_eq!(world.status(2, 1), NodeStatus::Reachable);
}

#[test]
fn thousands_of_nodes_are_asked_evenly_and_not_too_often() {
    for (nodes, a_second) in [(1000_u16, 1000), (5000, 5000), (10_000, 5000)] {
        let mut world = World::new(3, false);
        for n in 0..nodes {
            world.add(2, n);
            world.set(2, n, true);
        }
        // Announced all at once, they have spread after a sweep or two.
        world.run(s(130));
        world.sent.clear();
        let from = world.now;
        world.run(s(10));
        // Two sweeps of three more probes a minute.
        let (regular, sweeps) = (10 * a_second, usize::from(nodes) / 2 + usize::from(nodes) / 10);
        let sent = world.sent.len();
        assert!(sent > regular * 9 / 10 && sent < regular * 11 / 10 + sweeps, "{nodes}: {sent}");
        let begin = world.sent[0].0;
        let mut tenths = [0_usize; 101];
        world.sent.iter().for_each(|(at, _)| tenths[((*at - begin).as_millis() / 100) as usize] += 1);
        let (least, most) = (tenths[..99].iter().min().unwrap(), tenths.iter().max().unwrap());
        assert!(*least * 2 > *most, "{nodes}: between {least} and {most} in a tenth of a second");
        assert_eq!(world.changed(from), []);
    }
    assert_eq!(MAX_RATE, 5000, "as documented");
}

#[test]
fn more_nodes_than_can_be_watched_are_counted() {
    let mut world = World::new(3, false);
    for n in 0..MAX_NODES as u16 + 5 {
        world.add(2, n);
    }
    let report = world.report();
    assert_eq!((report.nodes.len(), report.not_probed), (MAX_NODES, 5));
    world.told(2, Event::Remove(key(2, 0)));
    assert_eq!(world.report().not_probed, 5, "they are not taken up before they change");
    world.told(2, Event::Upsert(super::Target { underlay: None, ..target(2, MAX_NODES as u16 + 1) }));
    assert_eq!(world.report().not_probed, 4);
}
