//! `wgpu-optim check`: our steps against the trajectories of PyTorch, Keras, optax and the papers.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use wgpu_optim::check::{Check, Verdict};

use super::{Adapters, Outcome, devices, golden, progress, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A directory of golden files; default: those in this binary.
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// Only files whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    #[command(flatten)]
    adapters: Adapters,
    /// One JSON object a file, and a last one with the counts.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let golden = match &args.golden {
        Some(directory) => golden::open(directory)?,
        None => golden::embedded()?,
    };
    let check = Check::new(golden, &devices(&args.adapters)?.said());
    let only = args.only.as_deref().unwrap_or_default();
    let files: Vec<_> = check.names().into_iter().filter(|file| file.contains(only)).collect();
    let bar = (!args.json).then(|| progress(files.len()));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for file in &files {
        let verdict = pollster::block_on(check.run(file));
        match verdict {
            Verdict::Passed { .. } => passed += 1,
            Verdict::Failed { .. } => failed += 1,
            Verdict::Skipped(_) => skipped += 1,
        }
        let line = if args.json { verdict.json(file) } else { verdict.line(file) };
        say(bar.as_ref(), &line);
        bar.iter().for_each(|bar| bar.inc(1));
    }
    bar.iter().for_each(|bar| bar.finish_and_clear());
    if args.json {
        say(None, &json!({ "passed": passed, "failed": failed, "skipped": skipped }).to_string());
    } else {
        say(None, &format!("on {}", check.engines().join(", ")));
        say(None, &format!("{passed} passed, {failed} failed, {skipped} skipped"));
    }
    if passed + failed == 0 {
        return Err("nothing was compared".into());
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
