//! The WGSL of a kernel: the rule, the texts of the driver, and what is generated between them. That is bindings, names
//! of types, accessors of one line, constants that turn features on, and the calls of the rule.

use std::fmt::Write as _;

use super::decision::COEFFICIENT_STRIDE;
use super::kernel::{AVERAGE, Driver, Extras, GradientAccess, KernelKey};
use super::passes::{BLOCK, MANY, ONE, indices, reduce};
use crate::formats::{Format, Lane};
use crate::settings::COEFFICIENT_HEAD;

const LANE: &str = include_str!("../../shaders/lane.wgsl");
const NOISE: &str = include_str!("../../shaders/noise.wgsl");
const UPDATE: &str = include_str!("../../shaders/update.wgsl");
const RANGE: &str = include_str!("../../shaders/range.wgsl");
const BLOCKS: &str = include_str!("../../shaders/blocks.wgsl");
const MEASURE: &str = include_str!("../../shaders/measure.wgsl");
const TRUST: &str = include_str!("../../shaders/trust.wgsl");

/// A binding of group 1.
pub(super) struct Range {
    name: &'static str,
    format: Format,
    pub(super) reads: bool,
}

impl KernelKey {
    /// Rule first, so that line numbers of its errors are its own; then what every lane needs, what is generated, and
    /// the driver.
    pub(crate) fn compose(&self) -> String {
        let noise = if self.extras.noise { NOISE } else { "" };
        let mut formats = vec![Format::F32];
        formats.extend((self.gradient_format != Format::F32).then_some(self.gradient_format));
        let (reduce, drivers) = match self.stage {
            Driver::Update => (String::new(), vec![UPDATE, if self.has_blocks() { BLOCKS } else { RANGE }]),
            Driver::Measure => (reduce(MANY), vec![MEASURE]),
            Driver::Trust => (reduce(ONE), vec![TRUST]),
        };
        let mut texts = vec![self.shader, BLOCK, LANE, noise, &reduce];
        texts.retain(|text| !text.is_empty());
        formats.iter().for_each(|format| texts.push(format.shader()));
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
        let of = |name, format, reads| Range { name, format, reads };
        let gradient = (self.gradient != GradientAccess::None)
            .then(|| of("grad", self.gradient_format, self.gradient == GradientAccess::Read));
        let states = self.used.iter().copied().chain(self.extras.average.then_some(AVERAGE));
        let states = states.map(move |state| of(state, Format::F32, false));
        let all = [of("param", Format::F32, false)].into_iter().chain(gradient).chain(states);
        all.enumerate().map(|(k, range)| (self.bindings.get(k).copied().unwrap_or(k), range))
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
        for (k, Range { name, format, reads }) in self.ranges().iter().enumerate() {
            let (access, ty) = (if *reads { "read" } else { "read_write" }, format.lane_type(self.lane));
            _ = writeln!(text, "@group(1) @binding({k}) var<storage, {access}> {name}: array<{ty}>;");
        }
        text
    }

    /// Accessors of parameter, gradient, states and average.
    fn accessors(&self) -> String {
        let ranges = self.ranges();
        let of = |name, at| {
            let found = self.bound().find(|(_, range)| range.name == name);
            found.map(|(binding, range)| Lanes { key: self, format: range.format, buffer: ranges[binding].name, at })
        };
        let (param, grad) = (of("param", "at.param"), of("grad", "at.grad"));
        let average = of(AVERAGE, "at.state").filter(|_| self.extras.average);
        let states: Vec<_> = self.used.iter().filter_map(|state| Some((state, of(state, "at.state")?))).collect();
        let mut text = match self.declared.is_empty() {
            true => "struct Kept { none: u32 }\n".to_owned(),
            false => "alias Kept = State;\n".to_owned(),
        };
        for (name, lanes) in [("param", &param), ("grad", &grad), ("average", &average)] {
            let x = lanes.as_ref().map_or("Lane(0.0)".to_owned(), Lanes::load);
            _ = writeln!(text, "fn load_{name}(at: At) -> Lane {{ return {x}; }}");
        }
        let loads: String = states.iter().map(|(state, lanes)| format!("s.{state} = {}; ", lanes.load())).collect();
        _ = writeln!(text, "fn load_state(at: At) -> Kept {{ var s: Kept; {loads}return s; }}");
        if self.measures() {
            return text;
        }
        for (name, lanes) in [("param", &param), ("average", &average)] {
            let store = lanes.as_ref().map_or(String::new(), |lanes| lanes.store("x"));
            _ = writeln!(text, "fn store_{name}(at: At, x: Lane) {{ {store} }}");
        }
        let stores: String = states.iter().map(|(state, lanes)| lanes.store(&format!("s.{state}")) + " ").collect();
        _ = writeln!(text, "fn store_state(at: At, s: Kept) {{ {stores}}}");
        let zeroed = grad.filter(|_| self.gradient == GradientAccess::Zero);
        let zero = zeroed.map_or(String::new(), |grad| grad.store("Lane(0.0)"));
        _ = writeln!(text, "fn zero_grad(at: At) {{ {zero} }}");
        text
    }

    /// Which features are on. The prefix keeps these names apart from a rule's `override`s.
    fn features(&self) -> String {
        let Extras { average, clip, zero, two_factors, noise, .. } = self.extras;
        let all = [
            ("SETTINGS", self.settings),
            ("TWO_FACTORS", two_factors),
            ("ZERO", zero),
            ("CLIP", clip),
            ("NOISE", noise),
            ("AVERAGE", average),
        ];
        let mut text: String = all.iter().map(|(name, on)| format!("const WITH_{name} = {on};\n")).collect();
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
    buffer: &'a str,
    /// Its index.
    at: &'a str,
}

impl Lanes<'_> {
    fn load(&self) -> String {
        self.format.load(self.key.lane, self.buffer, self.at)
    }

    fn store(&self, x: &str) -> String {
        self.format.store(self.key.lane, self.buffer, self.at, x)
    }
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
