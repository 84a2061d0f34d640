//! Every composed shader, without a GPU: it validates, agrees with its Rust half, and translates to what each backend
//! runs.

use naga::back::{PipelineConstants, glsl, hlsl, msl, pipeline_constants, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, TypeInner};
use wgpu_optim::internals::{
    Driver, Encoding, Extras, GradientAccess, Lane, accumulate_shader, constants, heads, layouts, look_ahead_shader,
    norm_shader, offsets, pass_shaders, shader, shader_in, sizes, swap_shader, swaps_of_halves, toward_shader,
};
use wgpu_optim::{AnyRule, Extent, Format, Precision, States, rules};

const LANES: [Lane; 2] = [Lane::Four, Lane::Tail];
const ACCESS: [GradientAccess; 3] = [GradientAccess::Read, GradientAccess::Aliased, GradientAccess::Zero];

fn validate(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    (module, info)
}

/// Texts that belong to no rule.
const DRIVERS: [&str; 38] = [
    "toward",
    "mirror",
    "swap_halves",
    "block",
    "block_a_thread",
    "shared_blocks",
    "draws",
    "blocks",
    "range",
    "update",
    "step_input",
    "lane",
    "look_ahead",
    "swap",
    "reduce",
    "norm",
    "prepare",
    "measure",
    "trust",
    "noise",
    "lines",
    "wide",
    "accumulate",
    "combine",
    "dot",
    "probe",
    "total",
    "matrix",
    "loss",
    "fit",
    "decay",
    "gaussian",
    "polynomial",
    "block_product",
    "cholesky",
    "shift",
    "normal",
    "least_squares",
];

/// Tint, Chrome's compiler, refuses what naga takes, such as && beside || without parentheses. This writes all texts
/// for tests/web/tint.mjs, which .ci/run calls behind it.
#[test]
fn texts_for_tint() {
    let kernels = kernels().into_iter().map(|(name, constants, text, entry)| {
        let constants: serde_json::Map<_, _> = constants.into_iter().map(|(key, x)| (key, x.into())).collect();
        serde_json::json!([name, entry, constants, text])
    });
    let all: Vec<_> = kernels.collect();
    assert!(all.len() > rules::all().len() * LANES.len() * ACCESS.len(), "{} texts", all.len());
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/shaders.json");
    std::fs::write(file, serde_json::Value::from(all).to_string()).unwrap();
}

/// The passes of a norm-based rule.
fn of_norms(rule: &AnyRule) -> Vec<(Driver, Lane)> {
    let all = [(Driver::Measure, Lane::Four), (Driver::Measure, Lane::Gathered), (Driver::Trust, Lane::Four)];
    all.into_iter().filter(|_| rule.reduce().is_some()).collect()
}

fn constants_of(rule: &AnyRule) -> PipelineConstants {
    rule.overrides().into_iter().map(|(key, on)| (key.to_owned(), f64::from(u8::from(on)))).collect()
}

/// All kernels there are: what a failure calls it, its pipeline constants, its text, its entry point.
fn kernels() -> Vec<(String, PipelineConstants, String, &'static str)> {
    let mut kernels = Vec::new();
    for (name, entry, text) in pass_shaders() {
        kernels.push((name.to_owned(), PipelineConstants::default(), text, entry));
    }
    for (name, rule) in rules::all() {
        for (stage, lane) in of_norms(&rule) {
            for noise in [false, true] {
                let extras = Extras { noise, clip: noise, ..Extras::default() };
                for precision in [Precision::f32(), Precision::bf16(), Precision::bf16_exact_master()] {
                    let label = format!("{name} {stage:?} {lane:?} {noise} {precision:?}");
                    let text = norm_shader(&rule, stage, lane, precision, extras);
                    kernels.push((label, constants_of(&rule), text, "main"));
                }
            }
        }
    }
    for lane in LANES {
        kernels.push((format!("look_ahead {lane:?}"), PipelineConstants::default(), look_ahead_shader(lane), "main"));
        kernels.push((format!("toward {lane:?}"), PipelineConstants::default(), toward_shader(lane), "main"));
        kernels.push((format!("accumulate {lane:?}"), PipelineConstants::default(), accumulate_shader(lane), "main"));
        kernels.push((format!("swap {lane:?}"), PipelineConstants::default(), swap_shader(lane), "main"));
        let beside = if lane == Lane::Tail { Lane::Gathered } else { lane };
        for (back, text) in [0.0, 1.0].into_iter().zip(swaps_of_halves(beside)) {
            let constants = PipelineConstants::from_iter([("BACK".to_owned(), back)]);
            kernels.push((format!("swap of halves {beside:?}, back {back}"), constants, text, "main"));
        }
        for (name, rule) in rules::all() {
            let constants = constants_of(&rule);
            for access in ACCESS {
                let label = format!("{name} {lane:?} {access:?}");
                let all = Extras {
                    average: true,
                    clip: true,
                    zero: true,
                    per_tensor: true,
                    pooled: true,
                    two_factors: true,
                    noise: true,
                    encoding: Encoding::Nearest,
                };
                let pooled = Extras { average: true, pooled: true, ..Extras::default() };
                for extras in [all, Extras { pooled: false, ..all }, pooled] {
                    let text = shader(&rule, lane, access, extras);
                    kernels.push((format!("{label} {extras:?}"), constants.clone(), text, "main"));
                }
                let plain = Extras { pooled: true, ..Extras::default() };
                let binned = Precision { states: States::BitsandbytesCpu, ..Precision::f32() };
                let mirror = Some(Format::F16);
                let relative = Precision { states: States::Relative8, mirror, ..Precision::f32() };
                // A rule changes the names of states alone.
                let several = ["adam", "amsgrad", "rmsprop-centered-momentum"].contains(&name);
                let beside = if lane == Lane::Tail { Lane::Gathered } else { lane };
                let mut narrow = Vec::new();
                let mut push = |precision: Precision, form: (bool, Extras)| {
                    narrow.push((format!("{precision:?} {form:?}"), shader_in(&rule, beside, access, precision, form)));
                };
                for block_a_thread in [true, false] {
                    push(Precision::block8(), (block_a_thread, all));
                    if several {
                        push(binned, (block_a_thread, plain));
                        push(relative, (block_a_thread, all));
                    }
                }
                let exact = Precision::bf16_exact_master();
                if several {
                    push(Precision { mirror: Some(Format::Bf16), ..Precision::f32() }, (false, all));
                    for states in [States::F32, States::Bf16, States::Block8] {
                        push(Precision { states, ..Precision::bf16() }, (true, all));
                        push(Precision { states, ..exact }, (false, all));
                    }
                } else {
                    push(Precision::bf16(), (false, plain));
                    push(exact, (false, plain));
                }
                let forms = |a: &str| narrow.iter().find(|(label, _)| label.starts_with(a)).map(|(_, text)| text);
                let block8 = format!("{:?}", Precision::block8());
                let [own, shared] = [true, false].map(|form| forms(&format!("{block8} ({form}")));
                assert!(rule.moments().is_empty() || (own.is_some() && own != shared), "{label}: one form");
                let kept = several || access == GradientAccess::Read;
                for (precision, text) in narrow.into_iter().filter(|_| kept) {
                    kernels.push((format!("{label} {precision}"), constants.clone(), text, "main"));
                }
                for gradients in [Format::Bf16, Format::F16].into_iter().filter(|f| several || *f == Format::Bf16) {
                    let precision = Precision { gradients, ..Precision::f32() };
                    // Zeroing them takes whole words.
                    let lane = if access == GradientAccess::Zero { beside } else { lane };
                    let text = shader_in(&rule, lane, access, precision, (false, Extras::default()));
                    kernels.push((format!("{label} of {gradients:?}"), constants.clone(), text, "main"));
                }
                kernels.push((label, constants.clone(), shader(&rule, lane, access, Extras::default()), "main"));
            }
        }
    }
    kernels
}

/// Names of a struct's fields.
fn fields(module: &Module, name: &str) -> Vec<String> {
    let found = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name));
    match found.map(|(_, ty)| &ty.inner) {
        Some(TypeInner::Struct { members, .. }) => members.iter().filter_map(|m| m.name.clone()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_list_is_whole() {
    let names: Vec<_> = rules::all().into_iter().map(|(name, _)| name).collect();
    assert!(names.len() >= 30, "{names:?}");
    let all = |folder: &str| std::fs::read_dir(format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for file in all("shaders/formats") {
        let file = file.unwrap().file_name().into_string().unwrap();
        let twin = format!("src/formats/{}", file.replace(".wgsl", ".rs"));
        assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&twin).exists(), "{twin} is missing");
    }
    let files = all("shaders").filter(|file| file.as_ref().is_ok_and(|file| file.path().is_file()));
    for file in files {
        let file = file.unwrap().file_name().into_string().unwrap();
        let stem = file.strip_suffix(".wgsl").unwrap();
        let known = DRIVERS.contains(&stem) || rules::all().iter().any(|(_, rule)| rule.name() == stem);
        assert!(known, "shaders/{file} belongs to no rule");
        let twin = format!("{}/src/rules/{stem}.rs", env!("CARGO_MANIFEST_DIR"));
        assert!(DRIVERS.contains(&stem) || std::path::Path::new(&twin).exists(), "{twin} is missing");
    }
}

#[test]
fn both_halves_of_a_rule_agree() {
    for (name, rule) in rules::all() {
        let (module, _) = validate(name, &shader(&rule, Lane::Four, GradientAccess::Read, Extras::default()));
        assert_eq!(fields(&module, "Hyper"), rule.hyper_names(), "{name}: Hyper");
        assert_eq!(fields(&module, "State"), rule.declared_states(), "{name}: State");
        let declared: Vec<_> = module.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect();
        let given: Vec<_> = rule.overrides().into_iter().map(|(key, _)| key).collect();
        assert_eq!(declared, given, "{name}: overrides");
        let globals: Vec<_> = module
            .global_variables
            .iter()
            .filter(|(_, v)| v.binding.as_ref().is_some_and(|b| b.group == 1))
            .map(|(_, v)| v.name.clone().unwrap_or_default())
            .collect();
        let storage = rule.storage();
        let states = storage.iter().filter(|state| state.extent == Extent::Element).map(|state| state.name);
        let expected: Vec<_> = ["param", "grad"].into_iter().chain(states).collect();
        assert_eq!(globals, expected, "{name}: bindings");
    }
}

/// A struct of the module: its members with their offsets, and its bytes.
fn laid_out(module: &Module, name: &str) -> (Vec<(String, usize)>, usize) {
    let found = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name));
    match found.map(|(_, ty)| &ty.inner) {
        Some(TypeInner::Struct { members, span }) => {
            let of = |member: &naga::StructMember| (member.name.clone().unwrap(), member.offset as usize);
            (members.iter().map(of).collect(), *span as usize)
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// All modules, with their names: those of rules in one variant.
fn modules() -> Vec<(String, Module)> {
    let mut texts: Vec<_> = pass_shaders().into_iter().map(|(name, _, text)| (name.to_owned(), text)).collect();
    let per_tensor = Extras { per_tensor: true, ..Extras::default() };
    for (name, rule) in rules::all() {
        texts.push((name.to_owned(), shader(&rule, Lane::Four, GradientAccess::Read, per_tensor)));
        for (stage, lane) in of_norms(&rule) {
            texts.push((
                format!("{name} {stage:?} {lane:?}"),
                norm_shader(&rule, stage, lane, Precision::f32(), Extras::default()),
            ));
        }
    }
    texts.into_iter().map(|(name, text)| (name.clone(), validate(&name, &text).0)).collect()
}

/// Modules that have this struct and are the optimizer's: a solver may have another one of that name.
fn with<'a>(modules: &'a [(String, Module)], name: &'a str) -> impl Iterator<Item = &'a (String, Module)> {
    let own = ["norm", "norm, gathered", "prepare", "lines", "lines in one window"];
    let own =
        move |module: &str| own.contains(&module) || rules::all().iter().any(|(rule, _)| module.starts_with(rule));
    modules
        .iter()
        .filter(move |(of, module)| own(of) && module.types.iter().any(|(_, ty)| ty.name.as_deref() == Some(name)))
}

/// What the host writes is what the shaders read: names, order, offsets, sizes.
#[test]
fn structs_have_one_layout() {
    let modules = modules();
    for layout in layouts() {
        let expected: Vec<_> = layout.fields.iter().map(|&(name, at)| (name.to_owned(), at)).collect();
        let mut seen = 0;
        for (name, module) in with(&modules, layout.name) {
            assert_eq!(laid_out(module, layout.name), (expected.clone(), layout.size), "{name}: {}", layout.name);
            seen += 1;
        }
        assert!(seen > 0, "no shader has {}", layout.name);
    }
    for layout in heads() {
        let mut seen = 0;
        for (name, module) in with(&modules, layout.name) {
            let (members, _) = laid_out(module, layout.name);
            let (head, rest) = members.split_at(layout.fields.len());
            let expected: Vec<_> = layout.fields.iter().map(|&(name, at)| (name.to_owned(), at)).collect();
            assert_eq!(head, expected, "{name}: {}", layout.name);
            assert_eq!(rest[0].1, layout.size, "{name}: {} begins where the head ends", rest[0].0);
            seen += 1;
        }
        assert!(seen > 0, "no shader has {}", layout.name);
    }
}

#[test]
fn sizes_of_buffers_agree() {
    let [stride, partial, log, head, in_flight, measured] = sizes();
    let modules = modules();
    let mut seen = [0; 3];
    for (name, module) in with(&modules, "Padded") {
        let array = module.types.iter().find_map(|(_, ty)| match ty.inner {
            TypeInner::Array { base, stride, .. } => {
                (module.types[base].name.as_deref() == Some("Padded")).then_some(stride as usize)
            }
            _ => None,
        });
        assert_eq!(laid_out(module, "Padded").1, stride, "{name}: Padded");
        assert_eq!(array.unwrap_or(stride), stride, "{name}: from one to the next");
        seen[0] += usize::from(array.is_some());
    }
    for (name, module) in with(&modules, "Partial") {
        assert_eq!(laid_out(module, "Partial").1, partial, "{name}: Partial");
        seen[1] += 1;
    }
    for (name, module) in with(&modules, "StepLog") {
        let (members, size) = laid_out(module, "StepLog");
        let at = |field: &str| members.iter().find(|(name, _)| name == field).unwrap().1;
        assert_eq!((size, at("outcomes"), at("measured")), (log, head, measured), "{name}: StepLog");
        assert_eq!(at("coefficient") - at("outcomes"), 4 * in_flight, "{name}: outcomes");
        seen[2] += 1;
    }
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
}

/// A constant of the module that is a u32.
fn constant(module: &Module, name: &str) -> Option<usize> {
    let (_, found) = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name))?;
    match module.global_expressions[found.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => Some(value as usize),
        ref other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn constants_have_one_value() {
    let modules = modules();
    let of = |name: &str| &modules.iter().find(|(module, _)| module == name).unwrap().1;
    let prepare = of("prepare");
    let all: Vec<_> = offsets().into_iter().chain(constants()).collect();
    for &(name, value) in &all {
        assert_eq!(constant(prepare, name), Some(value), "{name}");
    }
    // Each constant of the text is among them, and the pass over lines has the same ones.
    for line in include_str!("../shaders/step_input.wgsl").lines() {
        let Some((name, _)) = line.strip_prefix("const ").and_then(|line| line.split_once(' ')) else { continue };
        assert!(all.iter().any(|(known, _)| *known == name), "{name} has no Rust half");
        assert_eq!(constant(of("lines"), name), constant(prepare, name), "{name} of lines.wgsl");
    }
}

/// Bytes are counted from the bindings: nothing else touches memory.
#[test]
fn traffic_is_what_the_shader_binds() {
    let traffic = |name: &str, source: &str| -> usize {
        let (module, _) = validate(name, source);
        let of = |(_, v): (_, &naga::GlobalVariable)| match v.space {
            _ if v.binding.as_ref().is_none_or(|b| b.group != 1) => None,
            naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => Some(8),
            naga::AddressSpace::Storage { .. } => Some(4),
            _ => None,
        };
        module.global_variables.iter().filter_map(of).sum()
    };
    for (name, rule) in rules::all() {
        let mut bytes = traffic(name, &shader(&rule, Lane::Four, GradientAccess::Read, Extras::default()));
        if rule.reduce().is_some() {
            bytes +=
                traffic(name, &norm_shader(&rule, Driver::Measure, Lane::Four, Precision::f32(), Extras::default()));
            // What is bound for L2 decay alone is not read without.
            bytes -= if rule.reduce().is_some_and(|reduce| reduce.parameter) { 0 } else { 4 };
        }
        assert_eq!(rule.bytes_per_parameter(), bytes, "{name}");
    }
}

#[test]
fn a_variant_differs_from_its_neighbours() {
    let text =
        |rule: &AnyRule| (shader(rule, Lane::Four, GradientAccess::Read, Extras::default()), format!("{rule:?}"));
    let all = rules::all();
    for (k, (a, rule)) in all.iter().enumerate() {
        for (b, other) in &all[..k] {
            assert_ne!(text(rule), text(other), "{a} is {b}");
        }
    }
}

#[test]
fn every_shader_translates_to_every_backend() {
    for (name, constants, source, entry_point) in kernels() {
        let (module, info) = validate(&name, &source);
        let entry = Some((naga::ShaderStage::Compute, entry_point));
        let (module, info) = pipeline_constants::process_overrides(&module, &info, entry, &constants)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let failed = |to: &str, e: &dyn std::fmt::Display| -> ! { panic!("{name} to {to}: {e}") };

        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| failed("SPIR-V", &e));
        assert!(words.len() > 100, "{name}");

        let (text, _) = msl::write_string(&module, &info, &msl::Options::default(), &msl::PipelineOptions::default())
            .unwrap_or_else(|e| failed("MSL", &e));
        assert!(text.contains("kernel void"), "{name}");

        let (options, pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| failed("HLSL", &e));
        assert!(text.contains("numthreads"), "{name}");

        let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
        let pipeline = glsl::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: entry_point.into(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, naga::proc::BoundsCheckPolicies::default())
            .and_then(|mut writer| writer.write())
            .unwrap_or_else(|e| failed("GLSL ES 3.1", &e));
        assert!(text.contains("local_size_x"), "{name}");
    }
}

/// A mistake in a rule is reported at the rule's own line.
#[test]
fn line_numbers_are_the_rules_own() {
    let source = shader(&rules::by_name("adam").unwrap(), Lane::Four, GradientAccess::Read, Extras::default());
    let own = include_str!("../shaders/adam.wgsl");
    let line = |text: &str| text.lines().position(|line| line.contains("fn update(")).unwrap();
    assert_eq!(line(&source), line(own));
}

/// The README's table of rules has each rule's states and bytes, and its first code block is the quickstart.
#[test]
fn the_readme_is_true() {
    let readme = include_str!("../README.md");
    for (name, rule) in rules::all() {
        let config = format!("{rule:?}");
        let config = config.trim_start_matches("AnyRule(").split([' ', ')', '{']).next().unwrap().to_owned();
        let amsgrad = name.starts_with("amsgrad");
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{config}`")) && line.contains("AMSGrad") == amsgrad);
        let row = row.unwrap_or_else(|| panic!("README has no row for {name} ({config})"));
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let states: Vec<_> = rule.states().into_iter().filter(|name| !amsgrad || name.starts_with("max")).collect();
        assert!(states.iter().all(|state| cells[2].contains(&format!("`{state}`"))), "{name}: {}", cells[2]);
        let bytes = rule.bytes_per_parameter();
        let (low, high) = cells[3].split_once('–').unwrap_or((cells[3], cells[3]));
        assert!((low.parse().unwrap()..=high.parse().unwrap()).contains(&bytes), "{name}: {bytes} is not {}", cells[3]);
    }
    let block = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let quickstart = include_str!("../examples/quickstart.rs").split_once("\n\n").unwrap().1;
    assert_eq!(block.trim(), quickstart.trim());
}
