//! A step in two halves, with a norm between them that is not one optimizer's alone.

use libtest_mimic::Failed;
use wgpu_optim::{
    BufferRange, ClipNorm, Error, Gpu, Gradient, LossScaler, NonFinite, Optimizer, Options, ParameterId, Result,
    Settings, rules::Momentum,
};

use crate::compare::ensure;
use crate::fixture::pipeline;

crate::tests!(
    both_halves_are_a_step,
    two_optimizers_share_a_norm,
    a_fault_of_one_skips_both,
    a_factor_that_overflows_in_one_skips_both,
    halves_that_do_not_fit_are_refused,
    nothing_changes_between_the_halves
);

/// Joins two L2 norms, and writes the result to both: a user's kernel.
const JOIN: &str = "
    struct Measured {
        scale: f32, exponent: i32, sum: f32, fault: u32, reach: i32, unused0: u32, unused1: u32, unused2: u32,
    }
    @group(0) @binding(0) var<storage, read_write> a: Measured;
    @group(0) @binding(1) var<storage, read_write> b: Measured;

    fn norm(x: Measured) -> f32 {
        return ldexp(x.scale * x.sum, x.exponent);
    }

    @compute @workgroup_size(1)
    fn main() {
        let both = length(vec2(norm(a), norm(b)));
        let fault = max(a.fault, b.fault);
        let reach = max(a.reach, b.reach);
        a = Measured(both, 0, 1.0, fault, reach, 0u, 0u, 0u);
        b = a;
    }";

fn join(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, ranges: [&BufferRange; 2]) {
    let (device, pipeline) = (gpu.device(), pipeline(gpu, JOIN));
    let [a, b] = ranges.map(BufferRange::binding);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: a }, wgpu::BindGroupEntry { binding: 1, resource: b }],
    });
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
}

fn optimizer(gpu: &Gpu, tensors: &[(&str, &[f32])]) -> Result<(Optimizer, Vec<ParameterId>)> {
    let mut optimizer = Optimizer::new(&gpu.into(), Momentum::default(), Settings::lr(0.5))?;
    optimizer.set_clip_norm(ClipNorm::optax(1.0))?;
    let ids = optimizer.add_all(0, tensors)?;
    Ok((optimizer, ids))
}

fn halves(optimizer: &mut Optimizer, gpu: &Gpu) -> Result<()> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.encode_measure(&mut encoder)?;
    optimizer.encode_apply(&mut encoder)?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

/// A step of both, which share a norm.
fn shared_step(a: &mut Optimizer, b: &mut Optimizer, gpu: &Gpu) -> Result<()> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    a.encode_measure(&mut encoder)?;
    b.encode_measure(&mut encoder)?;
    join(gpu, &mut encoder, [&a.measured()?, &b.measured()?]);
    a.encode_apply(&mut encoder)?;
    b.encode_apply(&mut encoder)?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

/// Nothing between the halves: the step is that of `encode`, bit for bit, with skips and a loss scale.
fn both_halves_are_a_step(gpu: &Gpu) -> Result<(), Failed> {
    let start: Vec<f32> = (0..5000).map(|k| k as f32 / 100.0).collect();
    let mut ours = Vec::new();
    for halved in [false, true] {
        let (mut optimizer, ids) = optimizer(gpu, &[("w", &start), ("b", &start[..3])])?;
        optimizer.set_settings(0, Settings { centralize: true, ..Settings::lr(0.5) })?;
        optimizer.set_options(ids[0], Options { shape: Some([50, 100]), ..Options::default() })?;
        optimizer.set_loss_scaler(LossScaler { init_scale: 64.0, growth_interval: 2, ..LossScaler::default() })?;
        for t in 0..6u32 {
            for (&id, len) in ids.iter().zip([5000, 3]) {
                let g = |k: u32| if t == 3 && k == 2 { f32::INFINITY } else { ((7 * k + t) % 13) as f32 - 6.0 };
                optimizer.write_gradient(id, &(0..len).map(g).collect::<Vec<_>>())?;
            }
            match halved {
                true => halves(&mut optimizer, gpu)?,
                false => optimizer.step()?,
            }
        }
        optimizer.settle_blocking()?;
        let values = [optimizer.read_blocking::<f32>(ids[0])?, optimizer.read_blocking(ids[1])?].concat();
        let bits: Vec<_> = values.iter().map(|x| x.to_bits()).collect();
        ours.push((bits, optimizer.report(), optimizer.steps(ids[0])?));
    }
    ensure(ours[0] == ours[1], format!("reports {:?} and {:?}", ours[0].1, ours[1].1))?;
    ensure(ours[1].2 == 5 && ours[1].1.skipped_steps == 1, format!("{} steps, {:?}", ours[1].2, ours[1].1))
}

/// Gradients (3, 0) here and (0, 4) there: the common norm is 5, and both are divided by it.
fn two_optimizers_share_a_norm(gpu: &Gpu) -> Result<(), Failed> {
    let (mut a, a_ids) = optimizer(gpu, &[("w", &[0.0, 0.0])])?;
    let (mut b, b_ids) = optimizer(gpu, &[("v", &[0.0, 0.0])])?;
    a.write_gradient(a_ids[0], &[3.0f32, 0.0])?;
    b.write_gradient(b_ids[0], &[0.0f32, 4.0])?;
    shared_step(&mut a, &mut b, gpu)?;
    let found = [a.read_blocking::<f32>("w")?, b.read_blocking("v")?].concat();
    let norms = [a.read_report_blocking()?.grad_norm, b.read_report_blocking()?.grad_norm];
    // Half of 3/5 and of 4/5. Each of the few operations rounds once: 8 half-ulps of 1.
    let near = |x: f32, y: f32| (x - y).abs() <= 4.0 * f32::EPSILON;
    let right = near(found[0], -0.3) && near(found[3], -0.4) && found[1..3] == [0.0, 0.0];
    ensure(right && norms.iter().all(|norm| (norm - 5.0).abs() < 1e-5), format!("{found:?}, norms {norms:?}"))
}

fn a_fault_of_one_skips_both(gpu: &Gpu) -> Result<(), Failed> {
    let (mut a, a_ids) = optimizer(gpu, &[("w", &[1.0, 1.0])])?;
    let (mut b, b_ids) = optimizer(gpu, &[("v", &[1.0, 1.0])])?;
    a.write_gradient(a_ids[0], &[3.0f32, 0.0])?;
    b.write_gradient(b_ids[0], &[f32::NAN, 4.0])?;
    shared_step(&mut a, &mut b, gpu)?;
    a.settle_blocking()?;
    b.settle_blocking()?;
    let found = [a.read_blocking::<f32>("w")?, b.read_blocking("v")?].concat();
    let skipped = [a.report(), b.report()].map(|report| report.skipped_steps);
    ensure(found == [1.0; 4] && skipped == [1, 1], format!("{found:?}, {skipped:?} skipped"))?;
    ensure((a.steps("w")?, b.steps("v")?) == (0, 0), "a skipped step does not count")
}

/// Gradients are finite in both; the factor 4 makes one of them infinite.
fn a_factor_that_overflows_in_one_skips_both(gpu: &Gpu) -> Result<(), Failed> {
    let with = |factor, gradient: f32| {
        let settings = Settings { grad_scale: factor, ..Settings::lr(0.5) };
        let mut sgd = Optimizer::new(&gpu.into(), Momentum::default(), settings)?;
        sgd.set_non_finite(NonFinite::Skip);
        sgd.add(0, "w", &[1.0f32])?;
        sgd.write_gradient("w", &[gradient])?;
        Ok::<_, Error>(sgd)
    };
    let (mut a, mut b) = (with(4.0, 3e38)?, with(1.0, 1.0)?);
    shared_step(&mut a, &mut b, gpu)?;
    for mut optimizer in [a, b] {
        optimizer.settle_blocking()?;
        let (w, skipped) = (optimizer.read_blocking::<f32>("w")?, optimizer.report().skipped_steps);
        ensure(w == [1.0] && skipped == 1, format!("{w:?}, {skipped} skipped"))?;
    }
    Ok(())
}

/// What the second half needs was uploaded by the first.
fn nothing_changes_between_the_halves(gpu: &Gpu) -> Result<(), Failed> {
    type Changing = fn(&mut Optimizer) -> Result<()>;
    let changes: [(&str, Changing); 7] = [
        ("a parameter, and a new program", |optimizer| {
            optimizer.add(0, "more", &[1.0f32])?;
            optimizer.wait_for_room()
        }),
        ("the learning rate", |optimizer| optimizer.set_lr(0, 0.25)),
        ("the limit", |optimizer| optimizer.set_clip_norm(ClipNorm::optax(2.0))),
        ("the step count", |optimizer| optimizer.set_steps("w", 7)),
        ("a look-ahead", |optimizer| optimizer.look_ahead()),
        ("outcomes", |optimizer| optimizer.settle_blocking()),
        ("a gradient that goes", |optimizer| optimizer.set_gradient("w", Gradient::Missing)),
    ];
    for (name, change) in changes {
        let (mut optimizer, ids) = optimizer(gpu, &[("w", &[1.0, 1.0])])?;
        optimizer.set_non_finite(NonFinite::Propagate);
        optimizer.write_gradient(ids[0], &[3.0f32, 4.0])?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        optimizer.encode_measure(&mut encoder)?;
        change(&mut optimizer)?;
        let refused = matches!(optimizer.encode_apply(&mut encoder), Err(Error::Unsupported { .. }));
        ensure(refused, format!("{name} changed between the halves"))?;
        drop(encoder);
        let before = optimizer.steps("w")?;
        optimizer.write_gradient(ids[0], &[3.0f32, 4.0])?;
        halves(&mut optimizer, gpu)?;
        optimizer.settle_blocking()?;
        ensure(optimizer.steps("w")? == before + 1, format!("{name}: a step behind a refused half"))?;
    }
    Ok(())
}

fn halves_that_do_not_fit_are_refused(gpu: &Gpu) -> Result<(), Failed> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut plain = Optimizer::new(&gpu.into(), Momentum::default(), 0.5)?;
    let refused = |result: Result<()>| matches!(result, Err(Error::Unsupported { .. }));
    ensure(refused(plain.encode_measure(&mut encoder)), "nothing is measured")?;
    plain.set_non_finite(NonFinite::Skip);
    plain.encode_measure(&mut encoder)?;
    plain.encode_apply(&mut encoder)?;
    ensure(refused(plain.encode_apply(&mut encoder)), "there is no first half")?;
    let (mut optimizer, ids) = optimizer(gpu, &[("w", &[1.0, 1.0])])?;
    optimizer.write_gradient(ids[0], &[3.0f32, 0.0])?;
    optimizer.encode_measure(&mut encoder)?;
    optimizer.add(0, "more", &[1.0f32])?;
    ensure(refused(optimizer.encode_apply(&mut encoder)), "a parameter has come")?;
    drop(encoder);
    halves(&mut optimizer, gpu)?;
    optimizer.settle_blocking()?;
    ensure(optimizer.steps("w")? == 1, "a refused half takes no step")
}
