//! The WGSL of a kernel: the rule, the texts of the driver, and what is generated between them. That is bindings, names
//! of types, accessors of one line, constants that turn features on, and the calls of the rule.

use std::fmt::Write as _;

use super::decision::COEFFICIENT_STRIDE;
use super::kernel::{AVERAGE, Driver, Extras, GradientAccess, KernelKey, MIRROR, REMAINDER};
use super::passes::{BLOCK, MANY, ONE, indices, reduce};
use crate::formats::draws::PARAMETER;
use crate::formats::{Encoding, Format, Lane, store_halves};
use crate::settings::COEFFICIENT_HEAD;

const LANE: &str = include_str!("../../shaders/lane.wgsl");
const NOISE: &str = include_str!("../../shaders/noise.wgsl");
const UPDATE: &str = include_str!("../../shaders/update.wgsl");
const RANGE: &str = include_str!("../../shaders/range.wgsl");
const BLOCKS: &str = include_str!("../../shaders/blocks.wgsl");
const BLOCK_A_THREAD: &str = include_str!("../../shaders/block_a_thread.wgsl");
const SHARED_BLOCKS: &str = include_str!("../../shaders/shared_blocks.wgsl");
const DRAWS: &str = include_str!("../../shaders/draws.wgsl");
const MEASURE: &str = include_str!("../../shaders/measure.wgsl");
const TRUST: &str = include_str!("../../shaders/trust.wgsl");

/// A binding of group 1.
pub(super) struct Range {
    name: &'static str,
    format: Format,
    pub(super) reads: bool,
    /// What a lane of it is.
    lane: Lane,
}

impl KernelKey {
    /// Rule first, so that line numbers of its errors are its own; then what every lane needs, what is generated, and
    /// the driver.
    pub(crate) fn compose(&self) -> String {
        let noise = if self.extras.noise { NOISE } else { "" };
        let entry = match (self.stores_blocks(), self.block_a_thread) {
            (true, true) => BLOCK_A_THREAD,
            (true, false) => SHARED_BLOCKS,
            (false, _) if self.has_blocks() => BLOCKS,
            _ => RANGE,
        };
        let (reduce, drivers) = match self.stage {
            Driver::Update => (String::new(), vec![UPDATE, entry]),
            Driver::Measure => (reduce(MANY), vec![MEASURE]),
            Driver::Trust => (reduce(ONE), vec![TRUST]),
        };
        let draws = if self.draws() { DRAWS } else { "" };
        let mut texts = vec![self.shader, BLOCK, LANE, noise, draws, &reduce];
        texts.retain(|text| !text.is_empty());
        for text in [Format::F32].iter().chain(&self.formats).flat_map(|format| format.shader()) {
            if !texts.contains(text) {
                texts.push(text);
            }
        }
        format!("{}\n{}\n{}", texts.join("\n"), self.generated(), drivers.join("\n"))
    }

    fn generated(&self) -> String {
        // Behind coefficients of whole 16 bytes, whole 16 bytes up to the next.
        let rest = (COEFFICIENT_STRIDE as usize - 4 * (COEFFICIENT_HEAD + self.hyper).next_multiple_of(4)) / 16;
        let mut text = of_lane(self.lane).to_owned();
        _ = writeln!(text, "const PADDING = {rest};");
        text += &indices(self.lane);
        text += &self.features();
        match self.stage {
            Driver::Update => {
                text += self.tables();
                text += &self.bindings();
                text += &self.accessors();
                text += &self.adapter("rule_update", "ptr<function, Kept>", "update");
            }
            Driver::Measure => {
                _ = writeln!(text, "const WITH_PARAMETER = {};", self.reduce.is_some_and(|reduce| reduce.parameter));
                text += &self.bindings();
                text += &self.accessors();
                text += &self.adapter("rule_measure", "Kept", "measure");
            }
            Driver::Trust => text += &self.reduction(),
        }
        text
    }

    /// What the kernel binds in group 1, in order.
    pub(super) fn ranges(&self) -> Vec<Range> {
        let mut bound = Vec::<Range>::new();
        for (at, range) in self.bound() {
            match bound.get_mut(at) {
                Some(first) => first.reads &= range.reads,
                None => bound.push(range),
            }
        }
        if self.measures() {
            bound.iter_mut().for_each(|range| range.reads = true);
        }
        bound
    }

    /// Parameter, gradient, states, average, each with its binding. Several may lie in one.
    fn bound(&self) -> impl Iterator<Item = (usize, Range)> {
        let gradient =
            (self.gradient != GradientAccess::None).then_some(("grad", self.gradient == GradientAccess::Read));
        let states = self.used.iter().copied().chain(self.extras.average.then_some(AVERAGE));
        let states = states.chain(self.beside()).map(|state| (state, false));
        let all = [("param", false)].into_iter().chain(gradient).chain(states);
        all.enumerate().map(|(k, (name, reads))| {
            let format = self.formats.get(k).copied().unwrap_or(Format::F32);
            let reads = reads || (self.used.contains(&name) && is_whole(name, format) && !self.settings);
            let lane = if is_whole(name, format) { Lane::Four } else { self.lane };
            (self.bindings.get(k).copied().unwrap_or(k), Range { name, format, reads, lane })
        })
    }

    /// Whether it stores states in blocks of 256. What is no step only reads them.
    fn stores_blocks(&self) -> bool {
        self.is_scaled() && self.settings && self.stage == Driver::Update
    }

    /// Whether it draws random bits.
    fn draws(&self) -> bool {
        let stores = self.settings && self.stage == Driver::Update;
        stores && self.extras.encoding == Encoding::Stochastic && self.bound().any(|(_, range)| self.rounds(&range))
    }

    /// Whether numbers of this range are rounded to one of the two around them at random.
    fn rounds(&self, range: &Range) -> bool {
        match range.format {
            Format::Block8Unsigned | Format::Relative8 => true,
            Format::Bf16 if range.name == "param" => self.beside() != Some(REMAINDER),
            Format::Bf16 => self.used.contains(&range.name),
            _ => false,
        }
    }

    /// Whether a table says what a workgroup does.
    fn has_blocks(&self) -> bool {
        self.extras.per_tensor || self.extras.pooled
    }

    /// Where an update of blocks finds its coefficients and its blocks.
    fn tables(&self) -> &'static str {
        match self.extras {
            Extras { per_tensor: true, .. } => {
                "@group(0) @binding(0) var<storage, read> coefficients: array<Padded>;\n\
                 @group(0) @binding(1) var<storage, read> blocks: array<Block>;\n\
                 fn load_coefficients(at: u32) -> Coefficients { return coefficients[at].c; }\n"
            }
            Extras { pooled: true, .. } => {
                "@group(0) @binding(0) var<uniform> coefficients: Coefficients;\n\
                 @group(2) @binding(0) var<storage, read> blocks: array<Block>;\n\
                 fn load_coefficients(at: u32) -> Coefficients { return coefficients; }\n"
            }
            _ => "",
        }
    }

    /// The bindings of group 1.
    fn bindings(&self) -> String {
        let mut text = String::new();
        for (k, Range { name, format, reads, lane }) in self.ranges().iter().enumerate() {
            let (access, ty) = (if *reads { "read" } else { "read_write" }, format.lane_type(*lane));
            _ = writeln!(text, "@group(1) @binding({k}) var<storage, {access}> {name}: array<{ty}>;");
        }
        text
    }

    /// Accessors of parameter, gradient, states and average.
    fn accessors(&self) -> String {
        let ranges = self.ranges();
        let of = |name: &'static str, at| {
            let found = self.bound().find(|(_, range)| range.name == name);
            found.map(|(binding, range)| {
                let (buffer, at) = (ranges[binding].name, if is_whole(name, range.format) { "at.own" } else { at });
                Lanes { key: self, format: range.format, lane: range.lane, name, buffer, at, reads: range.reads }
            })
        };
        let (param, grad) = (of("param", "at.param"), of("grad", "at.grad"));
        let average = of(AVERAGE, "at.state").filter(|_| self.extras.average);
        let (mirror, remainder) = (of(MIRROR, "at.own"), of(REMAINDER, "at.own"));
        let states: Vec<_> = self.used.iter().filter_map(|state| Some((state, of(state, "at.state")?))).collect();
        let mut text = match self.declared.is_empty() {
            true => "struct Kept { none: u32 }\n".to_owned(),
            false => "alias Kept = State;\n".to_owned(),
        };
        for (name, lanes) in [("param", &param), ("grad", &grad), ("average", &average)] {
            let x = lanes.as_ref().map_or("Lane(0.0)".to_owned(), Lanes::load);
            let x = match &remainder {
                Some(remainder) if name == "param" => format!("joined({x}, {})", remainder.load()),
                _ => x,
            };
            _ = writeln!(text, "fn load_{name}(at: At) -> Lane {{ return {x}; }}");
        }
        let loads: String = states.iter().map(|(state, lanes)| format!("s.{state} = {}; ", lanes.load())).collect();
        let scaled: Vec<_> = states.iter().map(|(_, lanes)| lanes).filter(|lanes| lanes.format.is_scaled()).collect();
        text += &scales(&scaled);
        _ = writeln!(text, "fn load_state(at: At, scales: Scales) -> Kept {{ var s: Kept; {loads}return s; }}");
        if self.measures() {
            return text;
        }
        let beside = mirror.iter().chain(&remainder).map(|lanes| lanes.store("x"));
        let stores: String = param.iter().map(|lanes| lanes.store_parameter(&remainder)).chain(beside).collect();
        _ = writeln!(text, "fn store_param(at: At, x: Lane, c: Coefficients) {{ {stores}}}");
        let store = average.map_or(String::new(), |lanes| lanes.store("x"));
        _ = writeln!(text, "fn store_average(at: At, x: Lane) {{ {store} }}");
        let store =
            |(k, (state, lanes)): (usize, &(&&str, Lanes<'_>))| lanes.store_state(&format!("s.{state}"), k as u32);
        let stores: String = states.iter().enumerate().map(store).collect();
        _ = writeln!(text, "fn store_state(at: At, s: Kept, most: Scales, c: Coefficients) {{ {stores}}}");
        if self.stores_blocks() {
            text += &store_scales(&scaled, self.block_a_thread);
        }
        let zeroed = grad.filter(|_| self.gradient == GradientAccess::Zero);
        let zero = zeroed.map_or(String::new(), |grad| grad.store("Lane(0.0)"));
        _ = writeln!(text, "fn zero_grad(at: At) {{ {zero} }}");
        text
    }

    /// Which features are on. The prefix keeps these names apart from a rule's `override`s.
    fn features(&self) -> String {
        let Extras { average, clip, zero, two_factors, noise, encoding, .. } = self.extras;
        let all = [
            ("SETTINGS", self.settings),
            ("TWO_FACTORS", two_factors),
            ("ZERO", zero),
            ("CLIP", clip),
            ("NOISE", noise),
            ("AVERAGE", average),
            ("RANDOM", self.draws()),
            ("BINS", encoding == Encoding::Binned),
        ];
        let mut text: String = all.iter().map(|(name, on)| format!("const WITH_{name} = {on};\n")).collect();
        _ = writeln!(text, "const AS_TORCHAO = {};", encoding == Encoding::Torchao);
        if !noise {
            text += "fn noise(c: Coefficients, at: u32, limit: u32) -> Lane { return Lane(0.0); }\n";
        }
        text
    }

    /// One call for all rules: those without state take none. `s` is what the driver passes of the state.
    fn adapter(&self, name: &str, s: &str, function: &str) -> String {
        let state = if self.declared.is_empty() { "" } else { "s, " };
        format!("fn {name}(w: Lane, g: Lane, s: {s}, h: Hyper) -> Lane {{ return {function}(w, g, {state}h); }}\n")
    }

    /// The number that a norm-based rule keeps, and the coefficient that it makes.
    fn reduction(&self) -> String {
        let (binding, load, store) = match self.keeps() {
            true => ("@group(0) @binding(3) var<storage, read_write> kept: array<f32>;\n", "kept[at]", "kept[at] = x;"),
            false => ("", "0.0", ""),
        };
        let into = self.reduce.map_or("", |reduce| reduce.into);
        format!(
            "{binding}\
             fn load_kept(at: u32) -> f32 {{ return {load}; }}\n\
             fn store_kept(at: u32, x: f32) {{ {store} }}\n\
             fn store_coefficient(at: u32, x: f32) {{ coefficients[at].c.hyper.{into} = x; }}\n"
        )
    }
}

/// The lanes of one range in a kernel's text.
struct Lanes<'a> {
    key: &'a KernelKey,
    format: Format,
    lane: Lane,
    name: &'a str,
    buffer: &'a str,
    /// Its index.
    at: &'a str,
    reads: bool,
}

impl Lanes<'_> {
    fn load(&self) -> String {
        match self.format.is_scaled() {
            true => self.format.load_block(&self.word(), &format!("scales.{}", self.name)),
            false => self.format.load(self.lane, self.buffer, self.at),
        }
    }

    /// Of blocks of 256: four codes.
    fn word(&self) -> String {
        format!("{}[at.own]", self.buffer)
    }

    /// Of blocks of 256: where the largest magnitude is.
    fn absmax(&self) -> String {
        format!("{0}[absmax_at(arrayLength(&{0}), at.own)]", self.buffer)
    }

    /// Stores state k. Of a block, the largest magnitude is known.
    fn store_state(&self, x: &str, k: u32) -> String {
        if self.reads {
            return String::new();
        }
        let store = match self.format {
            Format::Block8Signed => self.store_block(&format!("own_numbers({x}, at)")),
            Format::Block8Unsigned | Format::Relative8 => {
                self.store_block(&format!("max(own_numbers({x}, at), Lane(0.0))"))
            }
            Format::Bf16 if self.key.draws() => self.store_random(x),
            _ => self.store(x),
        };
        self.with_random(&store, k)
    }

    fn store_block(&self, x: &str) -> String {
        self.format.store_block(&self.word(), &format!("most.{}", self.name), x)
    }

    /// Stores a parameter, or its upper half.
    fn store_parameter(&self, remainder: &Option<Self>) -> String {
        match self.format {
            Format::Bf16 if remainder.is_some() => store_halves(self.lane, self.buffer, self.at, "upper_words(x)"),
            Format::Bf16 if self.key.draws() => self.with_random(&self.store_random("x"), PARAMETER),
            _ => self.store("x"),
        }
    }

    fn store_random(&self, x: &str) -> String {
        store_halves(self.lane, self.buffer, self.at, &format!("bf16_random({x}, random)"))
    }

    /// With the variable that a random rounding, and all of [blocks](Format::is_scaled), take.
    fn with_random(&self, store: &str, k: u32) -> String {
        match self.format {
            Format::F32 | Format::F64 => format!("{store} "),
            _ if self.key.draws() => {
                format!("{{ let random = draws(c, at.tensor, {k}u, 4u * at.first); {store} }} ")
            }
            _ => format!("{{ let random = vec4<u32>(); {store} }} "),
        }
    }

    fn store(&self, x: &str) -> String {
        self.format.store(self.lane, self.buffer, self.at, x)
    }
}

/// Whether a storage of this name is bound whole: what is ours, in fewer bits than f32.
fn is_whole(name: &str, format: Format) -> bool {
    format.size() < 4 && !["param", "grad"].contains(&name)
}

/// The largest magnitudes of a block's states, and how they are loaded.
fn scales(scaled: &[&Lanes<'_>]) -> String {
    let each = |f: &dyn Fn(&Lanes<'_>) -> String| scaled.iter().map(|lanes| f(lanes)).collect::<Vec<_>>().join(", ");
    let fields = each(&|lanes| format!("{}: f32", lanes.name));
    let loads = each(&|lanes| format!("bitcast<f32>({})", lanes.absmax()));
    let (fields, loads) = if scaled.is_empty() { ("none: f32".into(), "0.0".into()) } else { (fields, loads) };
    format!(
        "struct Scales {{ {fields} }}\n\
         fn no_scales() -> Scales {{ return Scales(); }}\n\
         fn absmax_at(words: u32, lane: u32) -> u32 {{ return words / 65u * 64u + lane / 64u; }}\n\
         fn load_scales(at: At) -> Scales {{ return Scales({loads}); }}\n"
    )
}

/// How they are found and stored. What is not finite, or not the tensor's, counts as 0.
fn store_scales(scaled: &[&Lanes<'_>], block_a_thread: bool) -> String {
    let each = |f: &dyn Fn(usize, &str) -> String| -> Vec<String> {
        scaled.iter().enumerate().map(|(k, lanes)| f(k, lanes.name)).collect()
    };
    let of_lane = each(&|_, name| format!("largest_of(own_numbers(s.{name}, at))")).join(", ");
    let both = each(&|_, name| format!("max(a.{name}, b.{name})")).join(", ");
    let stores: String =
        scaled.iter().map(|lanes| format!("{} = bitcast<u32>(x.{}); ", lanes.absmax(), lanes.name)).collect();
    let count = scaled.len();
    let at = |k: usize| format!("&shared_bits[{count}u * block + {k}u]");
    let share = each(&|k, name| format!("atomicMax({}, bitcast<u32>(x.{name})); ", at(k))).concat();
    let shared = each(&|k, _| format!("bitcast<f32>(atomicLoad({}))", at(k))).join(", ");
    let joined = match block_a_thread {
        true => format!("fn largest_scales(a: Scales, b: Scales) -> Scales {{ return Scales({both}); }}\n"),
        false => format!(
            "var<workgroup> shared_bits: array<atomic<u32>, {}>;\n\
             fn share_scales(block: u32, x: Scales) {{ {share}}}\n\
             fn shared_scales(block: u32) -> Scales {{ return Scales({shared}); }}\n",
            16 * count
        ),
    };
    format!(
        "fn own_numbers(x: Lane, at: At) -> Lane {{ return select(Lane(0.0), x, finite(x) & of_tensor(at)); }}\n\
         fn largest_of(x: Lane) -> f32 {{ let y = abs(x); return max(max(y.x, y.y), max(y.z, y.w)); }}\n\
         fn scales_of(s: Kept, at: At) -> Scales {{ return Scales({of_lane}); }}\n\
         fn store_scales(at: At, x: Scales) {{ {stores}}}\n{joined}"
    )
}

/// What a lane of four, and one element, are to the rules.
fn of_lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Four | Lane::Gathered => {
            "alias Lane = vec4<f32>;\nalias Bits = vec4<u32>;\nalias Mask = vec4<bool>;\nconst TAIL = false;\n\
             fn of_four(x: vec4<f32>, at: u32) -> Lane { return x; }\n"
        }
        Lane::Tail => {
            "alias Lane = f32;\nalias Bits = u32;\nalias Mask = bool;\nconst TAIL = true;\n\
             fn of_four(x: vec4<f32>, at: u32) -> Lane { return x[at & 3u]; }\n"
        }
    }
}
