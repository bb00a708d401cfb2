//! The lab with real packets and real processes, in namespaces of its own. The program is its own `causeway lab`: a lab
//! copies the running executable and starts subcommands of it.

mod fabric;
mod host;
mod labs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use causeway_lab::cli::LabCommand;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// What a lab starts of this program
    Lab(LabCommand),
}

type Test = (&'static str, fn());

fn tests() -> Vec<Test> {
    [fabric::TESTS, labs::TESTS].concat()
}

fn main() -> ExitCode {
    causeway_lab::runtime::init::early_main();
    rustls::crypto::ring::default_provider().install_default().expect("the only provider");
    if std::env::args().nth(1).is_some_and(|a| a == "lab") {
        return lab();
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return ExitCode::SUCCESS;
    }
    run_tests()
}

fn lab() -> ExitCode {
    let Role::Lab(command) = Cli::parse().role;
    match runtime().block_on(command.run(async |_| Ok(()))) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// Understands what `cargo test` passes on: filters, `--exact`, `--skip`, `--list`; other flags change nothing here.
fn run_tests() -> ExitCode {
    let (mut filters, mut skip, mut exact, mut list) = (Vec::new(), Vec::new(), false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--exact" => exact = true,
            "--list" => list = true,
            "--skip" => skip.extend(args.next()),
            "--test-threads" | "--format" | "--color" => drop(args.next()),
            flag if flag.starts_with('-') => {}
            _ => filters.push(arg),
        }
    }
    let wanted = |name: &str| {
        let is = |f: &String| if exact { name == f } else { name.contains(f.as_str()) };
        (filters.is_empty() || filters.iter().any(is)) && !skip.iter().any(|s| name.contains(s.as_str()))
    };
    let chosen: Vec<Test> = tests().into_iter().filter(|(name, _)| wanted(name)).collect();
    if list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        let start = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!(
            "test {name} ... {} ({:.1} s)",
            if good { "ok" } else { "FAILED" },
            start.elapsed().as_secs_f64()
        );
        if !good {
            failed.push(*name);
        }
    }
    let (bad, all) = (failed.len(), chosen.len());
    let word = if bad == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {} passed; {bad} failed\n", all - bad);
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
