//! `wgpu-optim solve --nist`: digits of NIST's certified parameters, on the host in f64 and f32 and on each device.

use comfy_table::CellAlignment;
use serde_json::{Map, Value, json};
use wgpu::util::DeviceExt;
use wgpu_optim::check::{Fit, Set, WithModel};
use wgpu_optim::solve::{self, GpuFits, GpuLeastSquares, LeastSquares, Status};
use wgpu_optim::{BufferRange, Error, Gpu, Real, largest};

use super::{golden, say, table};

/// NIST certifies 11 digits.
const CERTIFIED: f64 = 1e-11;
/// Digits that are asked for in f64.
const ENOUGH: f64 = 6.0;

/// What came of a fit: digits of the worst parameter (0 where one is NaN), and why it stopped.
#[derive(Clone, Copy)]
struct Found {
    digits: f64,
    iterations: u64,
    status: Status,
}

impl Found {
    fn new<F: Real>(x: &[F], exact: &[f64], iterations: u64, status: Status) -> Self {
        let error = |(x, exact): (&F, &f64)| (x.to_f64().unwrap_or(f64::NAN) / exact - 1.0).abs();
        let worst = x.iter().zip(exact).map(error).fold(CERTIFIED, largest);
        Self { digits: (-worst.log10()).max(0.0), iterations, status }
    }

    fn json(&self) -> Value {
        json!({ "digits": self.digits, "iterations": self.iterations, "status": self.status })
    }

    fn cell(&self) -> String {
        format!("{:.1}", self.digits)
    }
}

/// Whether all parameters have six digits in f64.
pub(crate) fn run(json: bool, gpus: &[Gpu]) -> Result<bool, Box<dyn std::error::Error>> {
    let golden = golden::embedded()?;
    let files = golden.names().into_iter().filter_map(|name| golden.of_kind("nist_strd", name));
    let (mut rows, mut reached, mut all, mut ours, mut theirs) = (Vec::new(), vec![0; 2 + 2 * gpus.len()], 0, 0, 0);
    for file in files {
        let set = Set::read(file)?;
        let devices = gpus.iter().map(|gpu| set.with(OnDevice { gpu, set: &set })?.map_err(|e| e.to_string()));
        let devices = devices.collect::<Result<Vec<_>, String>>()?;
        for (k, start) in set.starts.iter().enumerate() {
            let (x, summary) = set.with(Fit { data: &set.data, start: start.as_slice() })??;
            let in_f64 = Found::new(&x, &set.certified, summary.iterations, summary.status);
            let single: Vec<f32> = start.iter().map(|&x| x as f32).collect();
            let (x, rough) = set.with(Fit { data: &set.data, start: single.as_slice() })??;
            let in_f32 = Found::new(&x, &set.certified, rough.iterations, rough.status);
            let minpack = set.minpack.get(k).copied().unwrap_or_default();
            (all, ours, theirs) = (all + 1, ours + summary.evaluations, theirs + minpack);
            let mut object = json!({
                "set": set.name, "unknowns": start.len(), "start": k + 1, "f64": in_f64.json(), "f32": in_f32.json(),
                "evaluations": summary.evaluations, "minpack_evaluations": minpack,
            });
            let mut found = vec![in_f64, in_f32];
            let mut by_device = Map::new();
            for (gpu, device) in gpus.iter().zip(&devices) {
                let [one, many] = device[k];
                by_device.insert(gpu.name(), json!({ "GpuLeastSquares": one.json(), "GpuFits": many.json() }));
                found.extend([one, many]);
            }
            object["devices"] = Value::Object(by_device);
            reached.iter_mut().zip(&found).for_each(|(n, found)| *n += usize::from(found.digits >= ENOUGH));
            let mut cells = vec![set.name.to_owned(), start.len().to_string(), (k + 1).to_string()];
            cells.extend(found.iter().map(Found::cell));
            cells.extend([summary.evaluations, minpack].map(|count| count.to_string()));
            rows.push((object, cells));
        }
    }
    if json {
        rows.iter().for_each(|(object, _)| say(None, &object.to_string()));
        return Ok(reached[0] == all);
    }
    say(
        None,
        "NIST's certified parameters by Levenberg–Marquardt: digits of the worst one, of the 11 that are certified;\n\
         evaluations of the residuals in f64, and those of SciPy's MINPACK at the same tolerances",
    );
    let mut header = ["set", "unknowns", "start", "host f64", "host f32"].map(String::from).to_vec();
    for k in 1..=gpus.len() {
        header.extend([format!("device {k}, one problem"), format!("device {k}, many")]);
    }
    header.extend(["evaluations", "MINPACK's"].map(String::from));
    let columns = header.len();
    let mut table = table(&header, rows.into_iter().map(|(_, cells)| cells));
    for column in 1..columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say(None, &table.to_string());
    for (k, gpu) in (1..).zip(gpus) {
        say(None, &format!("device {k}: {}, in f32, by GpuLeastSquares and by GpuFits", gpu.name()));
    }
    let counts: Vec<_> = reached.iter().map(usize::to_string).collect();
    say(None, &format!("Six digits, of {all}, in the order of the columns: {}", counts.join(", ")));
    say(None, &format!("Evaluations in f64: {ours}; SciPy's MINPACK: {theirs}\n"));
    Ok(reached[0] == all)
}

/// Tolerances that f32 just reaches.
fn options() -> LeastSquares {
    LeastSquares { max_iter: 1000, ftol: 1e-7, xtol: 1e-7, ..LeastSquares::single() }
}

/// A set from each of its starts on a device: as one problem, and as one of many.
struct OnDevice<'a> {
    gpu: &'a Gpu,
    set: &'a Set<'a>,
}

impl WithModel for OnDevice<'_> {
    type Out = Result<Vec<[Found; 2]>, Error>;

    fn with<M: solve::Model>(self) -> Self::Out {
        let Self { gpu, set } = self;
        let data: Vec<f32> = set.data.iter().map(|&x| x as f32).collect();
        let rows = data.len() / M::COLUMNS;
        let start: Vec<f32> = set.starts.iter().flatten().map(|&x| x as f32).collect();
        let fits = GpuFits::<M>::new(gpu, set.starts.len(), rows, options())?;
        fits.write(&data.repeat(set.starts.len()), &start)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        fits.encode(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
        let many = fits.read_blocking()?;
        let mut one = GpuLeastSquares::new(gpu, rows, M::UNKNOWNS, options())?;
        let kernel = Kernel::new::<M>(gpu, &data, &one);
        let mut found = Vec::new();
        for (k, start) in start.chunks(M::UNKNOWNS).enumerate() {
            one.write(start)?;
            let summary = one.solve_blocking(|encoder| {
                kernel.record(encoder);
                Ok::<_, Error>(())
            })?;
            let of_one = Found::new(&one.read_blocking()?, &set.certified, summary.iterations, summary.status);
            let x = &many.x[k * M::UNKNOWNS..][..M::UNKNOWNS];
            let of_many = Found::new(x, &set.certified, many.iterations[k].into(), many.statuses[k]);
            found.push([of_one, of_many]);
        }
        Ok(found)
    }
}

/// A caller's kernel, which writes residuals and Jacobian of a model: a row a thread.
struct Kernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    workgroups: u32,
}

const KERNEL: &str = "
    @group(0) @binding(0) var<storage, read> point: array<f32>;
    @group(0) @binding(1) var<storage, read> samples: array<f32>;
    @group(0) @binding(2) var<storage, read_write> residuals: array<f32>;
    @group(0) @binding(3) var<storage, read_write> rows: array<f32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x >= arrayLength(&residuals) { return; }
        var unknowns = array<f32, N>();
        for (var k = 0u; k < N; k++) { unknowns[k] = point[k]; }
        var sample = array<f32, COLUMNS>();
        for (var k = 0u; k < COLUMNS; k++) { sample[k] = samples[id.x * COLUMNS + k]; }
        var row = array<f32, N>();
        residuals[id.x] = residual(unknowns, sample, &row);
        for (var k = 0u; k < N; k++) { rows[id.x * N + k] = row[k]; }
    }";

impl Kernel {
    fn new<M: solve::Model>(gpu: &Gpu, data: &[f32], solver: &GpuLeastSquares) -> Self {
        let device = gpu.device();
        let text = format!("const N = {}u; const COLUMNS = {}u;\n{}\n{KERNEL}", M::UNKNOWNS, M::COLUMNS, M::SHADER);
        let label = Some("a model of NIST's");
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let contents = bytemuck::cast_slice(data);
        let usage = wgpu::BufferUsages::STORAGE;
        let samples = device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label, contents, usage });
        let samples = BufferRange::whole(&samples);
        let ranges = [solver.x(), &samples, solver.residuals(), solver.jacobian()];
        let entries: Vec<_> = (0..)
            .zip(ranges)
            .map(|(binding, range)| {
                let size = wgpu::BufferSize::new(4 * range.len as u64);
                let resource = wgpu::BufferBinding { buffer: &range.buffer, offset: range.offset, size };
                wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(resource) }
            })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &layout, entries: &entries });
        let workgroups = solver.residuals().len.div_ceil(64) as u32;
        Self { pipeline, group, workgroups }
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }
}
