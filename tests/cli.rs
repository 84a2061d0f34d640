//! The binary and the examples, as a user runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wgpu-optim")).args(args).output().unwrap()
}

/// The same where no Vulkan driver is and no other backend is asked for.
fn run_without_adapter(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"));
    command.args(args).env("WGPU_BACKEND", "vulkan").env("VK_ICD_FILENAMES", "/nonexistent.json");
    command.env("VK_DRIVER_FILES", "/nonexistent.json").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn last_line(output: &Output) -> String {
    text(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

fn rows(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A directory of golden files for one test, removed behind it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wgpu-optim-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, value: &Value) {
        std::fs::write(self.0.join(file), value.to_string()).unwrap();
    }

    fn check(&self) -> Output {
        run(&["check", "--adapter", "none", "--golden", self.0.to_str().unwrap()])
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The repository's own files.
fn golden() -> serde_json::Map<String, Value> {
    let archive = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.json.gz")).unwrap();
    serde_json::from_reader(flate2::read::GzDecoder::new(archive)).unwrap()
}

#[test]
fn every_golden_file_passes_on_every_device() {
    let output = run(&["check", "--json", "--all-adapters"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let verdicts = rows(&output);
    let count = |verdict: &str| verdicts.iter().filter(|row| row["verdict"] == verdict).count();
    assert_eq!((count("passed"), count("failed"), count("skipped")), (313, 0, 0));
    let summary: Value = serde_json::from_str(&last_line(&output)).unwrap();
    assert_eq!(summary, serde_json::json!({ "passed": 313, "failed": 0, "skipped": 0 }));
    // Not each file is exact: these are comparisons, not copies.
    let off = verdicts.iter().filter(|row| row["worst_error"].as_f64().is_some_and(|e| e > 1e-8)).count();
    assert!(off > 60, "{off}");
}

#[test]
fn every_rule_is_listed() {
    let names = |output: &Output| rows(output).iter().map(|row| row["rule"].as_str().unwrap().to_owned()).collect();
    let listed: Vec<String> = names(&run(&["rules", "--json"]));
    let known: Vec<_> = wgpu_optim::rules::all().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, known);
    let found: Vec<String> = names(&run(&["rules", "--json", "nadam"]));
    assert_eq!(found, ["nadam", "nadam-keras", "nadam-optax", "nadam-eps-root"]);
    assert!(text(&run(&["rules", "asgd"]).stdout).contains("Polyak and Juditsky"));
    assert!(!run(&["rules", "nothing of that name"]).status.success());
}

#[test]
fn a_changed_file_fails_and_an_unknown_key_is_named() {
    let (golden, directory) = (golden(), Directory::new("changed"));
    directory.write("inputs_pub.json", &golden["inputs_pub.json"]);
    let adam = &golden["torch_adam_plain.f64.json"];
    directory.write("right.f64.json", adam);
    let change = |change: &dyn Fn(&mut Value)| {
        let mut case = adam.clone();
        change(&mut case);
        case
    };
    directory.write("betas.f64.json", &change(&|case| case["hyper"]["betas"][0] = 0.89.into()));
    directory.write("eps.f64.json", &change(&|case| case["hyper"]["eps"] = 1.1e-8.into()));
    directory.write(
        "parameter.f64.json",
        &change(&|case| {
            let x = case["params"]["20"][1][7].as_f64().unwrap();
            case["params"]["20"][1][7] = (x * (1.0 + 1e-9)).into();
        }),
    );
    directory.write("nan.f64.json", &change(&|case| case["params"]["3"][0][0] = "NaN".into()));
    directory.write("state.f64.json", &change(&|case| case["state"]["exp_avg"][0][6] = 13.87.into()));
    directory.write("key.f64.json", &change(&|case| case["hyper"]["trick"] = true.into()));
    directory
        .write("look_ahead.f64.json", &change(&|case| case["lookahead_params"]["20"] = serde_json::json!([[1.0]])));
    directory.write("states.f64.json", &change(&|case| case["state"]["exp_avg"] = serde_json::json!([])));
    directory.write("range.f64.json", &change(&|case| case["hyper"]["betas"][0] = 1.0.into()));
    directory.write("null.f64.json", &change(&|case| case["hyper"]["new_option"] = Value::Null));
    directory.write("shape.f64.json", &change(&|case| case["params"]["20"][1] = Value::Array(vec![1.0.into()])));
    std::fs::write(directory.0.join("truncated.f64.json"), &adam.to_string()[..1000]).unwrap();
    let output = directory.check();
    let said = text(&output.stdout);
    assert!(!output.status.success());
    assert_eq!(last_line(&output), "2 passed, 9 failed, 2 skipped", "{said}");
    for file in ["betas", "eps", "parameter", "nan", "state", "shape", "look_ahead", "states", "truncated"] {
        assert!(said.contains(&format!("FAIL {file}.f64.json")), "{file}: {said}");
    }
    let named =
        |file: &str, key: &str| said.lines().any(|l| l.starts_with(&format!("skip {file}.")) && l.contains(key));
    // A key without a value computes nothing.
    assert!(named("key", "`trick` = true") && said.contains("ok   null.f64.json"), "{said}");
    assert!(named("range", "beta1 = 1 is outside"), "{said}");
}

#[test]
fn the_float32_twin_is_judged_by_the_f64_file() {
    let (golden, directory) = (golden(), Directory::new("twin"));
    directory.write("inputs_pub.json", &golden["inputs_pub.json"]);
    let f64 = &golden["keras_adam_plain.f64.json"];
    let mut f32 = f64.clone();
    f32["dtype"] = "f32".into();
    // The library's own float32 run may be anywhere: its numbers are not compared.
    f32["params"]["20"][0][0] = 1e6.into();
    directory.write("a.f64.json", f64);
    directory.write("a.f32.json", &f32);
    let output = directory.check();
    assert_eq!(last_line(&output), "2 passed, 0 failed, 0 skipped", "{}", text(&output.stdout));
    std::fs::remove_file(directory.0.join("a.f64.json")).unwrap();
    let output = directory.check();
    assert_eq!(last_line(&output), "0 passed, 1 failed, 0 skipped", "{}", text(&output.stdout));
}

#[test]
fn nothing_to_compare_is_an_error() {
    let directory = Directory::new("empty");
    let typo = run(&["check", "--adapter", "no such adapter"]);
    for output in [directory.check(), run(&["check", "--golden", "/nonexistent"]), typo] {
        assert!(!output.status.success() && text(&output.stderr).contains("error"), "{}", text(&output.stderr));
    }
}

#[test]
fn bench_prints_a_row_a_rule() {
    let args = [
        "bench",
        "--json",
        "--shapes",
        "1000,3x2^10",
        "--rules",
        "adam,sgd,novograd",
        "--memory",
        "arena,pool,buffers",
    ];
    let output = run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = rows(&output);
    let on_cpu = rows.iter().filter(|row| row["device"] == "cpu").count();
    // On the CPU a pool of slices and slices are one.
    assert!(on_cpu == 12 && (rows.len() - 12).is_multiple_of(18), "{rows:?}");
    for row in &rows {
        // A number that belongs to a tensor is nothing to an element.
        let (states, bytes) = match row["rule"].as_str() {
            Some("adam") => (8, 28),
            Some("novograd") => (4, 24),
            _ => (0, 12),
        };
        assert_eq!([&row["state_bytes_per_param"], &row["bytes_per_param"]], [states, bytes], "{row}");
        let [gbps, copy_gbps, fraction, ms] =
            ["gbps", "copy_gbps", "fraction_of_copy", "ms"].map(|key| row[key].as_f64().unwrap());
        let elements = row["elements"].as_f64().unwrap();
        assert!((gbps * ms * 1e6 / elements - f64::from(bytes)).abs() < 1e-6, "{row}");
        // Medians of ratios and ratios of medians differ: beside a build, by 6 for so few elements.
        assert!(fraction > 0.0 && (fraction / (gbps / copy_gbps)).ln().abs() < 3.0, "{row}");
        assert!(row["noise"].as_f64().unwrap() >= 0.0 && row["rounds"].as_u64().unwrap() >= 21, "{row}");
        assert_eq!(row["time_of_one_tensor"].is_null(), row["tensors"] == 1, "{row}");
        if row["device"] == "gpu" {
            assert!(row["worst_scaled_error"].as_f64().unwrap() <= 5e-6, "{row}");
            // 1,024 elements are whole fours; 1,000 in a buffer, too.
            let dispatches = if row["place"] == "buffers" { row["tensors"].clone() } else { 1.into() };
            assert_eq!(row["dispatches"], dispatches, "{row}");
        }
    }
    // Without a subcommand it is `bench` too, with a table.
    let output = run(&["--rules", "sgd", "--sizes", "1000"]);
    let said = text(&output.stdout);
    assert!(said.contains("of copy") && said.lines().any(|line| line.contains("| sgd")), "{said}");
    for wrong in [["--rules", "adamm"], ["--shapes", "0"], ["--shapes", "2^77"], ["--memory", "moon"]] {
        assert!(!run(&["bench", wrong[0], wrong[1]]).status.success());
    }
}

/// The first command of a newcomer: what will happen, ten rules on each device once, and what came out.
#[test]
fn bench_leads_with_ten_rules_and_ends_with_a_verdict() {
    let output = run(&["--sizes", "1000"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.starts_with("10 rules, 1000 parameters, on the CPU"), "{said}");
    let rules = said.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule")).count();
    let mut devices: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("GPU: ")).collect();
    assert_eq!(rules, 10 * (1 + devices.len()), "{said}");
    // Without the backend, which stands last.
    devices.iter_mut().for_each(|name| *name = name.split(". Medians").next().unwrap().rsplit_once(" (").unwrap().0);
    let names = devices.len();
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), names, "a device twice: {said}");
    let verdict = |part: &str| said.lines().filter(|line| line.contains(part)).count();
    assert_eq!(verdict(": 10 of 10 agree with the CPU after 3 steps, "), names, "{said}");
    assert_eq!(verdict("The Adam kernel that people write by hand takes "), names, "{said}");
    assert_eq!(verdict("Adam runs at "), 1 + names, "{said}");
    assert!(said.trim_end().lines().last().unwrap().starts_with("Next: `"), "{said}");
}

#[test]
fn bench_measures_what_else_there_is() {
    let directory = Directory::new("bench");
    let file = directory.0.join("speed.svg");
    let (shapes, rules, plot) = (["--shapes", "100,1000"], ["--rules", "adam"], ["--plot", file.to_str().unwrap()]);
    let flags = ["bench", "--json", "--baselines", "--features", "--startup"];
    let output = run(&[&flags[..], &shapes, &rules, &plot].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = rows(&output);
    let with = |key: &str| all.iter().filter(|row| !row[key].is_null()).collect::<Vec<_>>();
    let adapters = all.iter().filter(|row| !row["startup"].is_null()).count();
    let (baselines, features) = (with("baseline"), with("feature"));
    // By hand and unfused on each adapter, one thread.
    assert_eq!(baselines.len(), 2 * (2 * adapters + 1), "{baselines:?}");
    assert!(baselines.iter().all(|row| row["time_of_ours"].as_f64().unwrap() > 0.0), "{baselines:?}");
    let unfused = baselines.iter().find(|row| row["baseline"] == "unfused");
    assert!(unfused.is_none_or(|row| row["bytes_per_param"] == 72), "{unfused:?}");
    assert_eq!(features.len(), 2 * 5 * (adapters + 1), "{features:?}");
    for row in features {
        let bytes = match row["feature"].as_str().unwrap() {
            "again" => 28,
            "clip" | "clip, scale" => 32,
            "ema" => 36,
            _ => 40,
        };
        assert_eq!(row["bytes_per_param"], bytes, "{row}");
        assert!(row["time_of_plain_adam"].as_f64().unwrap() > 0.0, "{row}");
    }
    for row in with("startup") {
        assert!(row["ms"].as_f64().unwrap() >= row["device_ms"].as_f64().unwrap(), "{row}");
    }
    let drawn = std::fs::read_to_string(&file).unwrap();
    let panels = drawn.matches("GB/s").count();
    assert_eq!(panels, 1 + adapters, "a panel a device");
    assert!(
        !run(&["bench", "--shapes", "3x10", "--adapter", "none", "--rules", "sgd", plot[0], plot[1]]).status.success()
    );
}

#[test]
fn bench_measures_precisions() {
    let flags = ["bench", "--json", "--rules", "adam", "--shapes", "5000", "--precision"];
    let output = run(&[&flags[..], &["f32,bf16-gradients,bf16-mirror,block8"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = rows(&output);
    let ours: Vec<_> = all.iter().filter(|row| !row["precision"].is_null()).collect();
    assert!(ours.len().is_multiple_of(4) && ours.len() >= 4, "{ours:?}");
    for row in ours {
        let gpu = row["device"] == "gpu";
        let (memory, traffic) = match row["precision"].as_str().unwrap() {
            "f32" => (12.0, 28.0),
            "bf16-gradients" => (12.0, 26.0),
            // The CPU keeps none.
            "bf16-mirror" => {
                if gpu {
                    (14.0, 30.0)
                } else {
                    (12.0, 28.0)
                }
            }
            _ => (6.03125, 16.0625),
        };
        assert_eq!(row["memory_bytes_per_param"], memory, "{row}");
        assert_eq!(row["bytes_per_param"], traffic, "{row}");
        assert!(row["time_of_f32"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(!run(&["bench", "--precision", "int4"]).status.success());
}

#[test]
fn without_an_adapter_the_cpu_half_runs_and_says_so() {
    let output = run_without_adapter(&["bench", "--rules", "adam", "--sizes", "1000"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("| adam"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("mesa-vulkan-drivers"), "{}", text(&output.stderr));
    let output = run_without_adapter(&["check", "--only", "torch_adam_plain"]);
    assert_eq!(last_line(&output), "1 passed, 0 failed, 0 skipped");
    let output = run_without_adapter(&["info"]);
    assert!(output.status.success() && text(&output.stdout).contains("no GPU adapter"), "{}", text(&output.stdout));
}

#[test]
fn info_and_shader_show_what_there_is() {
    let output = run(&["info", "--json"]);
    assert!(output.status.success());
    for row in rows(&output) {
        assert!(row["max_buffer_size"].as_u64().is_some_and(|size| size > 0), "{row}");
    }
    let (said, adapters) = (text(&run(&["info"]).stdout), rows(&output).len());
    assert_eq!(said.matches("takes several dispatches").count(), adapters, "{said}");
    let output = run(&["shader", "amsgrad"]);
    let said = text(&output.stdout);
    assert!(said.contains("max_exp_avg_sq[at.state] = s.max_exp_avg_sq;") && said.contains("AMSGRAD = true"), "{said}");
    let said = text(&run(&["shader", "lamb", "--norms"]).stdout);
    assert!(said.contains("// Measure") && said.contains("of_owner = trust("), "{said}");
    assert!(!run(&["shader", "adam", "--norms"]).status.success());
    assert!(text(&run(&["shader", "sgd", "--noise"]).stdout).contains("fn philox("));
    let output = run(&["shader", "nothing"]);
    assert!(!output.status.success() && text(&output.stderr).contains("adagrad-keras"), "{}", text(&output.stderr));
}

#[test]
fn solvers_reach_known_minima() {
    let output = run(&["solve", "--json", "--adapter", "none"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = rows(&output);
    let suite: Vec<_> = rows.iter().filter(|row| row["methods"].is_object()).collect();
    assert_eq!(suite.len(), 24);
    let digits: Vec<_> = rows.iter().filter_map(|row| row["f64"]["digits"].as_f64()).collect();
    assert!(digits.len() == 54 && digits.iter().all(|digits| *digits >= 6.0), "{digits:?}");
    // At the same tolerances.
    let evaluations =
        |key: &str| rows.iter().filter(|row| row["set"].is_string()).filter_map(|row| row[key].as_u64()).sum::<u64>();
    let (ours, minpack) = (evaluations("evaluations"), evaluations("minpack_evaluations"));
    assert!(ours <= minpack && minpack == 2476, "{ours} {minpack}");
    let said = text(&run(&["solve", "--convergence"]).stdout);
    assert!(said.contains("Newton's method") && said.contains("iterations 1,"), "{said}");
}

#[test]
fn schedule_prints_and_draws() {
    let directory = Directory::new("schedule");
    let file = directory.0.join("warmup.svg");
    let spec = "sequence([(10, polynomial(from: 0.1, to: 1.0, steps: 10)), (0, cosine(steps: 90))])";
    let output = run(&["schedule", spec, "--lr", "0.5", "--steps", "100", "--json", "--plot", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = rows(&output);
    assert_eq!(rows.len(), 100);
    let lr = |k: usize| rows[k]["lr"].as_f64().unwrap();
    assert!((lr(0) - 0.05).abs() < 1e-12 && lr(10) == 0.5, "{} {}", lr(0), lr(10));
    let drawn = std::fs::read_to_string(&file).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("learning rate") && drawn.contains("<polyline"), "{drawn}");
    let output = run(&["schedule", "cosine(stps: 1)"]);
    assert!(!output.status.success() && text(&output.stderr).contains("1:8"), "{}", text(&output.stderr));
    for (wrong, said) in [("cosine", "for example `cosine(1000)`"), ("cosin(1)", "there are constant, step, ")] {
        let output = run(&["schedule", wrong]);
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && stderr.contains(said), "{stderr}");
        assert!(stderr.contains("A whole command: wgpu-optim schedule 'cosine(1000)"), "{stderr}");
    }
    for right in
        ["cosine(10_000).warmup(500)", "one_cycle(1000)", "robbins_monro", "warmup_stable_decay(10, 80, 10, 0)"]
    {
        let output = run(&["schedule", right, "--steps", "3", "--json"]);
        assert_eq!(text(&output.stdout).lines().count(), 3, "{right}: {}", text(&output.stderr));
    }
}

/// An example that `cargo test` has built beside this test.
fn example(name: &str, args: &[&str]) -> Output {
    let built = Path::new(env!("CARGO_BIN_EXE_wgpu-optim")).with_file_name("examples").join(name);
    let output = Command::new(&built).args(args).output();
    output.unwrap_or_else(|e| panic!("{}: {e}; plain `cargo test` builds the examples", built.display()))
}

#[test]
fn examples_run() {
    let output = example("quickstart", &[]);
    assert!(text(&output.stdout).contains("[2.000, 1.000]"), "{}", text(&output.stdout));
    for name in ["custom_rule", "share_device"] {
        let output = example(name, &[]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    }
}

/// Each picture in a directory of its own: a complete SVG or PNG, and what was measured for it within its bounds.
#[test]
fn pictures_are_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (svg, png) = (at("paths.svg"), at("paths.png"));
    let output = example("trajectories", &["--device", "cpu", "--steps", "200", "--out", &svg]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // The ravine's floor: momentum is there, and plain descent on its way.
    let ravine = said.lines().find(|line| line.starts_with("ravine, condition")).unwrap();
    let f = |rule: &str| -> f64 {
        let words: Vec<_> = ravine.split([' ', ',']).collect();
        words[words.iter().position(|word| *word == rule).unwrap() + 1].parse().unwrap()
    };
    assert!(f("momentum") < 1e-6 && f("adam") < 1e-4 && f("sgd") > 1e-4 && f("sgd") < 1.0, "{ravine}");
    let few = ["--device", "cpu", "--steps", "4", "--rules", "sgd,adam", "--gif", "--out", &png];
    let output = example("trajectories", &few);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(std::fs::read(at("paths.gif")).unwrap().starts_with(b"GIF89a"));
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let (sheet, rates) = (at("schedules.svg"), at("convergence.svg"));
    assert!(example("schedules", &["--out", &sheet]).status.success());
    let output = example("convergence", &["--device", "cpu", "--json", "--out", &rates]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(rows(&output).len(), 11);
    // AdaGrad-Norm learns from a first rate of 1000, or the example fails.
    let norm = at("norm.svg");
    let output = example("adagrad_norm", &["--points", "2", "--images", "1500", "--epochs", "2", "--out", &norm]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (file, lines) in [(&svg, 500), (&sheet, 16), (&rates, 11), (&norm, 8)] {
        let drawn = std::fs::read_to_string(file).unwrap();
        assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{file}");
        assert!(drawn.matches("<polyline").count() >= lines, "{file}: {}", drawn.matches("<polyline").count());
    }
    for wrong in [["--rules", "nothing"], ["--out", "/nonexistent/a.svg"], ["--steps", "0"]] {
        let output = example("trajectories", &["--device", "cpu", wrong[0], wrong[1]]);
        assert!(!output.status.success() && text(&output.stderr).contains("error"), "{wrong:?}");
    }
}

#[test]
fn mnist_learns_with_every_rule() {
    let accuracy = |output: &Output| -> f64 {
        let line = last_line(output);
        let number = line.strip_prefix("test accuracy ").and_then(|rest| rest.strip_suffix(" %"));
        number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line:?} {}", text(&output.stderr)))
    };
    let reached = accuracy(&example("mnist", &["--device", "cpu", "--epochs", "2"]));
    assert!(reached > 92.0, "{reached}");
    for rule in ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "amsgrad", "adamax", "nadam"] {
        let reached = accuracy(&example("mnist", &["--device", "cpu", "--epochs", "1", "--optimizer", rule]));
        assert!(reached > 80.0, "{rule}: {reached}");
    }
    for wrong in
        [["--optimizer", "nothing"], ["--data", "/nonexistent"], ["--lr", "NaN"], ["--batch", "0"], ["--hidden", "0"]]
    {
        let output = example("mnist", &["--device", "cpu", wrong[0], wrong[1]]);
        assert!(!output.status.success() && text(&output.stderr).contains("error"), "{wrong:?}");
    }
    // On whatever adapter there is: gradients, and the losses of 100 steps, against the CPU.
    let normalized = ["--hidden", "24,12", "--batch-norm", "--dropout", "0.2"];
    for more in [&[][..], &["--hinge"], &["--dropout", "0.5"], &normalized] {
        let output = example("mnist", &[&["--check-gradients", "--batch", "16", "--seed", "7"], more].concat());
        let said = text(&output.stdout) + &text(&output.stderr);
        let required = std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|v| v == "1");
        assert!(said.contains("central differences, 25 of each tensor"), "{said}");
        assert!(output.status.success() || (!required && said.contains("no GPU adapter")), "{said}");
    }
    for more in [&[][..], &["--hinge"], &["--hinge", "--batch-norm"]] {
        let output = example("mnist", &[&["--device", "cpu", "--epochs", "1", "--lr", "1e30"], more].concat());
        assert!(text(&output.stderr).contains("try a lower --lr"), "{more:?} {}", text(&output.stderr));
    }
    for few in [["--batch", "1"], ["--batch", "19"]] {
        let output = example("mnist", &["--device", "cpu", "--batch-norm", few[0], few[1]]);
        assert!(text(&output.stderr).contains("two samples in a batch"), "{few:?} {}", text(&output.stderr));
    }
}

#[test]
fn mnist_compares_sweeps_and_resumes() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let output = example("mnist", &[&["--device", "cpu"], args].concat());
        assert!(output.status.success(), "{args:?} {}", text(&output.stderr));
        text(&output.stdout)
    };
    let percent = |said: &str| -> f64 {
        let last = said.trim_end().lines().last().unwrap();
        last.trim_start_matches("test accuracy ").trim_end_matches(" %").parse().unwrap()
    };
    let percent_of = |line: &str| -> f64 { line.trim_end_matches(" %").rsplit(' ').next().unwrap().parse().unwrap() };
    let (picture, csv) = (at("compare.svg"), at("compare.csv"));
    let said = run(&["--compare", "sgd,adam", "--epochs", "2", "--out", &picture, "--csv", &csv]);
    assert!(percent(&said) > 90.0 && said.lines().filter(|line| line.ends_with(" %")).count() == 3, "{said}");
    let drawn = std::fs::read_to_string(&picture).unwrap();
    assert!(drawn.trim_end().ends_with("</svg>") && drawn.matches("<polyline").count() >= 4);
    let numbers = std::fs::read_to_string(&csv).unwrap();
    assert!(numbers.lines().all(|line| line.split(',').count() == 5) && numbers.lines().count() == 17, "{numbers}");
    assert!(said.contains("best on the test images: "), "{said}");
    let said = run(&["--precision", "f32,block8", "--epochs", "2", "--csv", &csv]);
    let rows = || said.lines().filter(|line| line.ends_with(" %"));
    let percents: Vec<f64> = rows().map(percent_of).collect();
    assert!(percents.len() == 3 && percents[1] > 90.0 && (percents[0] - percents[1]).abs() < 2.0, "{said}");
    let numbers = std::fs::read_to_string(&csv).unwrap();
    assert!(numbers.lines().all(|line| line.split(',').count() == 5), "{numbers}");
    let curve = |name: &str| -> Vec<_> { numbers.lines().filter_map(|line| line.strip_prefix(name)).collect() };
    let [full, small] = [curve("adam,"), curve("adam block8,")];
    assert!(!full.is_empty() && full.len() == small.len() && full != small, "{numbers}");
    // Each option makes another network, or another way to it.
    let losses = |more: &[&str]| -> String {
        run(&[&["--epochs", "1", "--csv", &csv], more].concat());
        std::fs::read_to_string(&csv).unwrap()
    };
    let plain = losses(&[]);
    let options: [&[&str]; 9] = [
        &["--dropout", "0.5"],
        &["--curriculum"],
        &["--hinge"],
        &["--l2", "0.01"],
        &["--ema", "0.99"],
        &["--clip", "0.1"],
        &["--schedule", "linear(1, 0.1, 100).warmup(20)"],
        &["--batch-norm"],
        &["--hidden", "64,32"],
    ];
    for option in options {
        assert!(losses(option) != plain, "{option:?} does nothing");
    }
    // Too low, good, too high: the good one is chosen on images held out.
    let said = run(&["--optimizer", "sgd", "--sweep-lr", "1e-5..1e5", "--epochs", "1"]);
    assert!(said.contains("held out: lr 0.1\n") && percent(&said) > 85.0, "{said}");
    let said = run(&["--optimizer", "sgd", "--sweep-lr", "0.1..1e36", "--epochs", "1"]);
    assert!(said.contains("diverges") && percent(&said) > 85.0, "{said}");
    // In two parts as in one, with a schedule, an average, clipping and running statistics.
    let file = at("run.safetensors");
    let all =
        ["--schedule", "cosine(375)", "--ema", "0.98", "--clip", "1", "--hidden", "48,32", "--batch-norm", "--epochs"];
    let whole = percent(&run(&[&all[..], &["3"]].concat()));
    let first = percent(&run(&[&all[..], &["1", "--resume", &file]].concat()));
    let said = run(&[&all[..], &["3", "--resume", &file]].concat());
    assert!(
        said.contains("goes on behind epoch 1") && percent(&said) == whole && first < whole,
        "{first} {whole} {said}"
    );
    let other = example("mnist", &[&all[..], &["3", "--resume", &file, "--batch", "60", "--device", "cpu"]].concat());
    assert!(!other.status.success() && text(&other.stderr).contains("another --batch"), "{}", text(&other.stderr));
    // What stops early does not reach the end, and is no worse for it.
    let early = ["--early-stop", "0", "--lr", "0.01", "--epochs", "50", "--batch-norm", "--ema", "0.9", "--csv", &csv];
    let said = run(&early);
    let epochs: f64 = said.lines().find_map(|line| line.split_once(" epochs in")).unwrap().0.parse().unwrap();
    assert!(epochs < 50.0 && percent(&said) > 90.0, "{said}");
    // The last epoch was no better; the weights are those of the one before it.
    let numbers = std::fs::read_to_string(&csv).unwrap();
    let tested: Vec<_> =
        numbers.lines().skip(1).filter_map(|line| line.split_once(",,")).map(|(_, part)| part).collect();
    assert!(tested.len() == epochs as usize + 1 && tested[tested.len() - 1] == tested[tested.len() - 3], "{numbers}");
    assert!(run(&["--batch", "256", "--epochs", "1"]).contains("1 epochs in"));
    assert!(percent(&run(&["--curriculum", "--hinge", "--epochs", "2", "--schedule", "linear"])) > 90.0);
    assert!(percent(&run(&["--dropout", "0.5", "--epochs", "2"])) > 90.0);
    for wrong in
        [["--schedule", "nonsense"], ["--sweep-lr", "3..1"], ["--dropout", "1"], ["--ema", "2"], ["--clip", "NaN"]]
    {
        let output = example("mnist", &["--device", "cpu", wrong[0], wrong[1]]);
        assert!(!output.status.success() && text(&output.stderr).contains("error"), "{wrong:?}");
    }
}
