//! The life of pods in virtual time.

use super::*;

fn container(name: &str, kind: ContainerKind) -> ContainerPlan {
    ContainerPlan {
        name: name.into(),
        image: "i".into(),
        kind,
        probes: [].into(),
        pre_stop: false,
        restarts: 0,
    }
}

fn probe(delay: i64, period: i64, failures: i64) -> ProbePlan {
    ProbePlan { initial_delay: delay, period, successes: 1, failures, grace: None }
}

struct Sim {
    machine: PodMachine,
    now: Timestamp,
    begin: Timestamp,
}

impl Sim {
    fn new(containers: Vec<ContainerPlan>, restart_policy: RestartPolicy) -> Self {
        let plan = PodPlan {
            title: "web_ns(u)".into(),
            uid: "u".into(),
            containers,
            restart_policy,
            grace: 30,
            host_ips: vec!["10.0.0.1".into()],
            qos: "BestEffort".into(),
            generation: None,
        };
        let begin = Timestamp::from_second(1_000_000).unwrap();
        Sim { machine: PodMachine::new(plan, begin, None), now: begin, begin }
    }

    /// Runs a pod of one container until it has started.
    fn running(containers: Vec<ContainerPlan>, policy: RestartPolicy) -> Self {
        let mut s = Sim::new(containers, policy);
        assert_eq!(s.tick(), ["sandbox"]);
        assert_eq!(s.ready(), ["start web/0"]);
        s.input(Input::Started { container: "web".into() });
        s
    }

    fn show(actions: Vec<Action>) -> Vec<String> {
        actions
            .into_iter()
            .filter_map(|a| match a {
                Action::StartSandbox => Some("sandbox".into()),
                Action::Start { container, run } => Some(format!("start {container}/{run}")),
                Action::Probe { container, kind, .. } => Some(format!("probe {container} {}", kind.title())),
                Action::PreStop { container } => Some(format!("prestop {container}")),
                Action::Terminate { container } => Some(format!("term {container}")),
                Action::Kill { container } => Some(format!("kill {container}")),
                Action::StopSandbox => Some("stop".into()),
                Action::Finalize => Some("finalize".into()),
                Action::Event { warning: true, reason, .. } => Some(format!("!{reason}")),
                Action::Event { .. } => None,
            })
            .collect()
    }

    fn tick(&mut self) -> Vec<String> {
        Self::show(self.machine.advance(self.now))
    }

    fn input(&mut self, input: Input) -> Vec<String> {
        Self::show(self.machine.handle(self.now, input))
    }

    fn ready(&mut self) -> Vec<String> {
        self.input(Input::SandboxReady { ips: vec!["10.1.0.7".parse().unwrap()] })
    }

    fn exit(&mut self, name: &str, code: i32) -> Vec<String> {
        self.input(Input::Exited { container: name.into(), code, signal: None, message: String::new() })
    }

    fn probed(&mut self, kind: ProbeKind, run: u32, ok: bool) -> Vec<String> {
        let failure = (!ok).then(|| "refused".to_string());
        self.input(Input::Probed { container: "web".into(), kind, run, failure })
    }

    /// Goes to the next wake-up; the seconds that took, and what is to be done then.
    fn sleep(&mut self) -> (i64, Vec<String>) {
        let at = self.machine.wakeup().expect("something is due");
        let slept = at.as_second() - self.now.as_second();
        self.now = at;
        (slept, self.tick())
    }

    fn waiting(&mut self, index: usize) -> String {
        let status = self.machine.status(self.now);
        let c = &status.container_statuses.unwrap()[index];
        c.state.clone().unwrap().waiting.and_then(|w| w.reason).unwrap_or_default()
    }

    fn is_ready(&mut self) -> bool {
        let status = self.machine.status(self.now);
        status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }
}

#[test]
fn sim_init_containers_run_in_order_before_the_others() {
    let init = |n| container(n, ContainerKind::Init);
    let mut s = Sim::new(
        vec![
            init("a"),
            container("side", ContainerKind::Sidecar),
            init("b"),
            container("web", ContainerKind::Main),
        ],
        RestartPolicy::Always,
    );
    assert_eq!(s.tick(), ["sandbox"]);
    assert_eq!(s.waiting(0), "PodInitializing");
    assert_eq!(s.ready(), ["start a/0"]);
    s.input(Input::Started { container: "a".into() });
    assert_eq!(s.exit("a", 1), ["start a/1"], "failed init containers are restarted, the first time at once");
    s.input(Input::Started { container: "a".into() });
    assert_eq!(s.exit("a", 0), ["start side/0"]);
    assert_eq!(s.input(Input::Started { container: "side".into() }), ["start b/0"]);
    assert_eq!(s.machine.phase(), "Pending");
    s.input(Input::Started { container: "b".into() });
    assert_eq!(s.exit("b", 0), ["start web/0"]);
    s.input(Input::Started { container: "web".into() });
    assert_eq!(s.machine.phase(), "Running");
    assert!(s.is_ready());
}

#[test]
fn sim_crash_loops_back_off_doubling() {
    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    assert_eq!(s.exit("web", 1), ["start web/1"]);
    for (run, pause) in [(2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300)] {
        s.input(Input::Started { container: "web".into() });
        assert_eq!(s.exit("web", 1), ["!BackOff"]);
        assert_eq!(s.waiting(0), "CrashLoopBackOff");
        assert!(!s.is_ready());
        assert_eq!(s.machine.phase(), "Running");
        assert_eq!(s.sleep(), (pause, vec![format!("start web/{run}")]));
    }
    s.input(Input::Started { container: "web".into() });
    s.now += Duration::from_secs(700);
    assert_eq!(s.exit("web", 0), ["start web/9"], "a long run is forgiven");
    let status = s.machine.status(s.now).container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 9);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().reason.unwrap(), "Completed");
}

#[test]
fn sim_restart_policy_decides_the_end() {
    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::OnFailure);
    assert_eq!(s.exit("web", 3), ["start web/1"]);
    s.input(Input::Started { container: "web".into() });
    assert_eq!(s.exit("web", 0), ["stop"], "a finished pod gives its network back");
    assert_eq!(s.machine.phase(), "Succeeded");
    assert_eq!(s.input(Input::SandboxGone), [""; 0]);
    assert!(!s.is_ready());
    assert_eq!(s.input(Input::Delete { grace: 30 }), ["finalize"]);
    assert!(s.machine.finished());

    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::Never);
    assert_eq!(s.exit("web", 3), ["stop"]);
    assert_eq!(s.machine.phase(), "Failed");
}

#[test]
fn sim_deletion_terminates_then_kills() {
    let mut web = container("web", ContainerKind::Main);
    web.pre_stop = true;
    let mut s = Sim::running(vec![web], RestartPolicy::Always);
    assert!(s.is_ready());
    assert_eq!(s.input(Input::Delete { grace: 30 }), ["prestop web"]);
    assert!(!s.is_ready(), "a terminating pod takes no traffic");
    s.now += Duration::from_secs(5);
    assert_eq!(s.input(Input::PreStopDone { container: "web".into() }), ["term web"]);
    assert_eq!(s.sleep(), (25, vec!["kill web".into()]));
    assert_eq!(s.exit("web", 137), ["stop"]);
    assert_eq!(s.input(Input::SandboxGone), ["finalize"]);
    assert!(s.machine.finished());
}

#[test]
fn sim_a_second_deletion_shortens_and_zero_kills_at_once() {
    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    assert_eq!(s.input(Input::Delete { grace: 30 }), ["term web"]);
    assert_eq!(s.input(Input::Delete { grace: 3 }), [""; 0]);
    assert_eq!(s.sleep(), (3, vec!["kill web".into()]));
    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    assert_eq!(s.input(Input::Delete { grace: 0 }), ["kill web"]);
}

#[test]
fn sim_deletion_waits_for_what_is_being_made() {
    let mut s = Sim::new(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    s.tick();
    assert_eq!(s.input(Input::Delete { grace: 30 }), [""; 0]);
    assert_eq!(s.ready(), ["stop"]);
    assert_eq!(s.input(Input::SandboxGone), ["finalize"]);
    // And a pod that never began is just removed.
    let mut s = Sim::new(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    assert_eq!(s.input(Input::Delete { grace: 30 }), ["finalize"]);
}

#[test]
fn sim_sandbox_failures_are_retried_with_pauses() {
    let mut s = Sim::new(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    s.tick();
    for pause in [1, 2, 4, 4] {
        let retry = Duration::from_secs(4);
        let failed = Input::SandboxFailed { reason: "FailedCreatePodSandBox", message: "no".into(), retry };
        assert_eq!(s.input(failed), ["!FailedCreatePodSandBox"]);
        assert_eq!(s.waiting(0), "ContainerCreating");
        assert_eq!(s.sleep(), (pause, vec!["sandbox".into()]));
    }
    assert_eq!(s.ready(), ["start web/0"]);
}

#[test]
fn sim_failed_starts_wait_with_their_reason() {
    let mut s = Sim::new(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    s.tick();
    s.ready();
    for pause in [1, 2, 4] {
        let message = "configmap \"x\" not found".to_string();
        let failed =
            Input::StartFailed { container: "web".into(), reason: "CreateContainerConfigError", message };
        assert_eq!(s.input(failed), ["!Failed"]);
        assert_eq!(s.waiting(0), "CreateContainerConfigError");
        assert_eq!(s.sleep(), (pause, vec!["start web/0".into()]));
    }
}

#[test]
fn sim_readiness_follows_its_thresholds() {
    let mut web = container("web", ContainerKind::Main);
    web.probes.insert(ProbeKind::Readiness, probe(5, 10, 2));
    let mut s = Sim::running(vec![web], RestartPolicy::Always);
    assert!(!s.is_ready());
    assert_eq!(s.sleep(), (5, vec!["probe web Readiness".into()]));
    s.probed(ProbeKind::Readiness, 0, true);
    assert!(s.is_ready());
    for ready in [true, false] {
        assert_eq!(s.sleep().0, 10);
        assert_eq!(s.probed(ProbeKind::Readiness, 0, false), ["!Unhealthy"]);
        assert_eq!(s.is_ready(), ready);
    }
    assert_eq!(s.machine.phase(), "Running");
}

#[test]
fn sim_liveness_restarts_after_its_threshold_and_startup_holds_it_back() {
    let mut web = container("web", ContainerKind::Main);
    web.probes.insert(ProbeKind::Startup, probe(0, 1, 5));
    web.probes.insert(ProbeKind::Liveness, probe(0, 2, 2));
    let mut s = Sim::running(vec![web], RestartPolicy::Always);
    assert_eq!(s.tick(), [""; 0], "the first startup probe is on its way");
    s.probed(ProbeKind::Startup, 0, false);
    assert!(!s.is_ready());
    assert_eq!(s.sleep(), (1, vec!["probe web Startup".into()]));
    assert_eq!(s.probed(ProbeKind::Startup, 0, true), ["probe web Liveness"]);
    assert!(s.is_ready());
    assert_eq!(s.probed(ProbeKind::Liveness, 0, false), ["!Unhealthy"]);
    assert_eq!(s.sleep(), (2, vec!["probe web Liveness".into()]));
    assert_eq!(s.probed(ProbeKind::Liveness, 0, false), ["!Unhealthy", "term web"]);
    assert_eq!(s.exit("web", 143), ["start web/1"]);
    assert_eq!(s.probed(ProbeKind::Liveness, 0, false), [""; 0], "results of an earlier run do not count");
}

#[test]
fn sim_sidecars_end_last() {
    let mut s = Sim::new(
        vec![container("side", ContainerKind::Sidecar), container("web", ContainerKind::Main)],
        RestartPolicy::Never,
    );
    s.tick();
    s.ready();
    s.input(Input::Started { container: "side".into() });
    s.input(Input::Started { container: "web".into() });
    assert_eq!(s.exit("web", 0), ["term side"]);
    assert_eq!(s.exit("side", 143), ["stop"]);
    assert_eq!(s.machine.phase(), "Succeeded");
}

#[test]
fn sim_a_dead_sandbox_is_replaced() {
    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    assert_eq!(s.input(Input::SandboxDied), ["kill web", "stop"]);
    s.exit("web", 137);
    assert_eq!(s.input(Input::SandboxGone), ["sandbox"]);
    assert_eq!(s.ready(), ["start web/1"]);
}

#[test]
fn sim_conditions_keep_their_time_until_they_change() {
    let mut s = Sim::running(vec![container("web", ContainerKind::Main)], RestartPolicy::Always);
    let since = |s: &mut Sim, kind: &str| {
        let status = s.machine.status(s.now);
        let c = status.conditions.unwrap().into_iter().find(|c| c.type_ == kind).unwrap();
        c.last_transition_time.unwrap().0
    };
    assert_eq!(since(&mut s, "Ready"), s.begin);
    s.now += Duration::from_secs(7);
    assert_eq!(since(&mut s, "Ready"), s.begin);
    s.input(Input::Delete { grace: 1 });
    let now = s.now;
    assert_eq!(since(&mut s, "Ready"), now);
    assert_eq!(since(&mut s, "PodScheduled"), s.begin);
}
