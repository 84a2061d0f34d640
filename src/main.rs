//! `wgpu-optim`: measures the rules, checks a device, shows what runs.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

/// Fused optimizer steps for the GPU through wgpu: benchmark, conformance check, inspection.
///
/// Without a subcommand it runs `bench`. WGPU_BACKEND and WGPU_ADAPTER_NAME narrow the adapters.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    bench: cli::bench::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare rules on CPU and GPU, time both beside a plain copy, and say in words what came out.
    Bench(cli::bench::Args),
    /// Compare every rule with runs of PyTorch, Keras and optax, on the CPU and on each GPU.
    Check(cli::check::Args),
    /// List adapters, their drivers, and what their limits mean for you.
    Info(cli::info::Args),
    /// List the rules: what each keeps, its paper, and what PyTorch, Keras, optax and Burn call it.
    Rules(cli::rules::Args),
    /// Print a learning-rate schedule, or draw it.
    Schedule(cli::schedules::Args),
    /// Print the WGSL that runs for a rule.
    Shader(cli::info::ShaderArgs),
    /// Run full-batch and second-order methods on problems with known minima.
    Solve(cli::solve::Args),
}

fn main() -> ExitCode {
    // wgpu warns about software adapters, which users can't change.
    let filter = env_logger::Env::default().default_filter_or("warn,wgpu_hal=off,wgpu_core=error");
    env_logger::Builder::from_env(filter).format_timestamp(None).init();
    let args = CommandLine::parse();
    let outcome = match args.command.unwrap_or(Command::Bench(args.bench)) {
        Command::Bench(args) => cli::bench::run(&args),
        Command::Check(args) => cli::check::run(&args),
        Command::Info(args) => cli::info::run(&args),
        Command::Rules(args) => cli::rules::run(&args),
        Command::Schedule(args) => cli::schedules::run(&args),
        Command::Shader(args) => cli::info::shader(&args),
        Command::Solve(args) => cli::solve::run(&args),
    };
    outcome.unwrap_or_else(|e| {
        eprintln!("error: {e}");
        ExitCode::FAILURE
    })
}
