//! The whole system as its users run it: labs of the built executable, stock kubectl, real packets.
//!
//! Which test shows which row of the specification's checklist (`behaviours.md`), for services across clusters (11.2) and
//! the service rows of the data path (11.4). A test holds that all that are named are there.
//!
//! | row of 11.2 | tests |
//! |---|---|
//! | global-both | `cli/tests/mesh/three/mod.rs: everybody` |
//! | shared-false | `cli/tests/mesh/three/mod.rs: sharing`, `mesh/src/merge/services_tests.rs: rows_of_who_sees_whose_backends` |
//! | alias-keys | `cli/tests/mesh/three/mod.rs: sharing`, `cluster/src/convert/annotations.rs: aliases_and_precedence` |
//! | shared-needs-global | `cli/tests/mesh/three/mod.rs: sharing` |
//! | affinity-local, affinity-remote | `cli/tests/mesh/three/mod.rs: preferences`, `mesh/src/merge/services_selection_tests.rs: rows_of_selection` |
//! | affinity-terminating | `mesh/src/merge/services_selection_tests.rs: rows_of_selection`, `cli/tests/mesh/failover.rs: netns_no_request_is_lost_while_backends_and_agents_are_replaced` |
//! | affinity-none | `cli/tests/mesh/steps.rs: netns_clusters_are_used_as_the_service_says_and_the_trace_tells_why`, `cluster/src/convert/annotations.rs: affinity_words` |
//! | port-name, same-targetPort, proto-family | `cli/tests/mesh/three/mod.rs: ports`, `mesh/src/merge/services_tests.rs: ports_protocols_families_and_precedence` |
//! | local-absent | `cli/tests/mesh/three/mod.rs: sharing` |
//! | per-cluster-replace | `cli/tests/mesh/three/mod.rs: one_cluster_leaves_the_others` |
//! | session-affinity | `cli/tests/mesh/three/mod.rs: affinity_of_clients`, `datapath/tests/netns_sockets.rs: netns_a_client_keeps_its_backend`, `datapath/tests/netns_perpacket.rs: netns_a_pod_with_affinity_keeps_its_backend` |
//! | traffic-policy-local | `cli/tests/mesh/three/mod.rs: traffic_policies`, `mesh/src/merge/services_selection_tests.rs: rows_of_traffic_policy_local` |
//! | topology | `cli/tests/mesh/three/mod.rs: zones`, `mesh/src/merge/services_selection_tests.rs: zone_hints_count_only_if_everybody_has_one` |
//! | disconnect-keep, disconnect-ttl | `cli/tests/mesh/three/mod.rs: a_control_plane_is_gone`, `cli/tests/mesh/services.rs: netns_a_global_service_spans_the_clusters_until_they_part` |
//! | health-failover | `cli/tests/mesh/three/mod.rs: a_cluster_is_cut_off`, `cli/tests/mesh/health.rs: netns_a_remote_node_loses_power_while_its_control_plane_is_gone` |
//! | disconnect-remove | `cli/tests/mesh/three/mod.rs: disconnected` |
//! | eps-sync | `cli/tests/mesh/operator.rs: netns_exports_and_headless_services_span_the_clusters`, `cli/tests/operator/slices.rs: a_headless_global_service_gets_the_endpoints_of_others` |
//! | mcs-export-import | `cli/tests/mesh/operator.rs: netns_exports_and_headless_services_span_the_clusters`, `cli/tests/operator/mcs.rs: an_export_elsewhere_is_imported_until_it_goes` |
//! | mcs-conflict | `cli/tests/operator/mcs.rs: an_own_export_has_conditions_and_conflicts` |
//! | mcs-dns | `cli/tests/mesh/names.rs: netns_pods_find_services_by_name`, `dns/src/zone/tests.rs: every_record_of_the_cluster_set` |
//! | phantom | none: an address means something in its own cluster only; exports (mcs-export-import) do this |
//!
//! | row of 11.4 | tests |
//! |---|---|
//! | socketlb | `datapath/tests/netns_services.rs: netns_packets_carry_backends_and_never_the_service`, `datapath/tests/netns_services.rs: netns_services_balance_fail_over_and_refuse` (clients check the addresses they are shown) |
//! | perpacket-lb | `datapath/tests/netns_perpacket.rs: netns_pods_reach_services_without_their_sockets` |
//! | nodeport-global | `cli/tests/mesh/three/mod.rs: ports_of_nodes`, `datapath/tests/netns_nodeport.rs: netns_a_client_outside_reaches_backends_on_every_node` |
//! | nodeport-remote | `cli/tests/mesh/three/mod.rs: ports_of_nodes`, `datapath/tests/netns_sockets.rs: netns_node_ports_answer_at_the_nodes_of_this_cluster_only`, `datapath/tests/netns_perpacket.rs: netns_node_ports_inside_answer_at_nodes_of_this_cluster_only` |
//! | hairpin | `datapath/tests/netns_perpacket.rs: netns_a_pod_reaches_itself_by_its_service` |
//! | no-backend | `datapath/tests/netns_nodeport.rs: netns_nobody_there_is_refused_at_once`, `datapath/tests/netns_services.rs: netns_services_balance_fail_over_and_refuse` |
//! | udp-terminate | `datapath/tests/netns_sockets.rs: netns_connected_sockets_leave_a_backend_that_is_gone` |
//! | maglev | `datapath/tests/netns_maglev.rs: netns_two_nodes_choose_the_same_backend` |
//! | ct-states, gc | `datapath/tests/netns_conntrack.rs: netns_flows_have_the_times_of_their_states`, `datapath/tests/netns_conntrack.rs: netns_collection_removes_what_is_over_and_a_gone_pods_flows`, `datapath/tests/netns_nat.rs: netns_without_a_free_port_new_flows_end_and_old_ones_live` |
//! | icmp-errors | `datapath/tests/netns_translation.rs: netns_errors_of_backends_find_the_client`, `datapath/tests/netns_translation.rs: netns_a_client_learns_what_fits_into_the_tunnel`, `datapath/tests/netns_translation.rs: netns_errors_about_answers_find_the_backend` |
//! | fragments | `datapath/tests/netns_translation.rs: netns_datagrams_in_fragments_come_through_in_order`, `datapath/tests/netns_translation.rs: netns_a_later_fragment_without_its_first_is_dropped` |
//! | dual-stack | both families in each of these, and `cli/tests/mesh/dual_stack.rs: netns_pods_of_dual_stack_clusters_reach_each_other_on_both_families` |
//! | restart-forwarding | `cli/tests/mesh/agent.rs: netns_no_packet_is_lost_without_an_agent_or_by_a_new_one`, `datapath/tests/netns_nodeport.rs: netns_forwarding_goes_on_without_the_agent_and_after_its_restart` |

mod agent;
mod clients;
mod clusters;
mod control_plane;
mod dual_stack;
mod failover;
mod forwarding;
mod health;
mod names;
mod native;
mod operator;
#[path = "../common/scrape.rs"]
mod scrape;
mod servers;
mod services;
mod steps;
mod three;

#[test]
fn the_tests_of_the_checklist_are_there() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let rows = include_str!("main.rs").lines().filter(|line| line.starts_with("//! |"));
    let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect::<Vec<_>>();
    assert!(named.len() > 50, "{named:?}");
    for test in named {
        let (file, function) =
            test.split_once(": ").unwrap_or_else(|| panic!("{test} is not file: function"));
        let text = std::fs::read_to_string(crates.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}");
    }
}
