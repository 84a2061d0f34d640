//! What is measured: an optimizer over tensors of a shape, in its own memory or in the caller's.

use wgpu_optim::{AnyRule, BufferRange, Device, Error, Gpu, Gradient, Optimizer, ParameterId, Slices};

use super::clock::{checked, wait};

/// Where the tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Memory {
    /// The optimizer's own memory.
    Arena,
    /// Ranges of two buffers of the caller, one for all parameters and one for all gradients (on the CPU: slices).
    Pool,
    /// Two buffers of the caller for each tensor (on the CPU: slices).
    Buffers,
}

pub(crate) struct Subject {
    pub(crate) optimizer: Optimizer,
    gpu: Option<Gpu>,
    ids: Vec<ParameterId>,
    lens: Vec<usize>,
    /// The caller's gradients on the GPU.
    gradients: Vec<BufferRange>,
    /// The caller's parameters and gradients on the CPU.
    slices: Option<(Vec<f32>, Vec<f32>)>,
}

impl Subject {
    /// `values` are those of all tensors, one after the other.
    pub(crate) fn new(
        device: &Device,
        rule: &AnyRule,
        lens: &[usize],
        memory: Memory,
        values: &[f32],
    ) -> Result<Self, Error> {
        let mut optimizer = Optimizer::new(device, rule.clone(), rule.default_lr())?;
        let names: Vec<_> = (0..lens.len()).map(|k| format!("w{k}")).collect();
        let mut rest = values;
        let parts: Vec<_> = lens.iter().filter_map(|&len| rest.split_off(..len)).collect();
        let named = names.iter().map(String::as_str);
        let (mut gradients, mut slices) = (Vec::new(), None);
        let gpu = match device {
            Device::Gpu(gpu) => Some(gpu.clone()),
            Device::Cpu => None,
        };
        let ids = match (&gpu, memory) {
            (_, Memory::Arena) => optimizer.add_all(0, &named.zip(parts).collect::<Vec<_>>())?,
            (None, _) => {
                slices = Some((values.to_vec(), vec![0.0; values.len()]));
                named
                    .zip(lens)
                    .map(|(name, &len)| optimizer.add_slice::<f32>(0, name, len))
                    .collect::<Result<_, _>>()?
            }
            (Some(gpu), _) => {
                let parameters = checked(gpu, || ranges(gpu, lens, memory))?;
                gradients = checked(gpu, || ranges(gpu, lens, memory))?;
                for (range, part) in parameters.iter().zip(parts) {
                    write(gpu, range, part);
                }
                let ids = optimizer.add_buffers(0, &named.zip(parameters).collect::<Vec<_>>())?;
                for (id, range) in ids.iter().zip(&gradients) {
                    optimizer.set_gradient(*id, Gradient::Buffer(range.clone()))?;
                }
                ids
            }
        };
        Ok(Self { optimizer, gpu, ids, lens: lens.to_vec(), gradients, slices })
    }

    /// Sets the gradients of all tensors, which `values` holds one after the other.
    pub(crate) fn set_gradients(&mut self, mut values: &[f32]) -> Result<(), Error> {
        if let Some((_, gradients)) = &mut self.slices {
            gradients.copy_from_slice(values);
            return Ok(());
        }
        for (k, (&id, &len)) in self.ids.iter().zip(&self.lens).enumerate() {
            let Some(part) = values.split_off(..len) else { break };
            match (&self.gpu, self.gradients.get(k)) {
                (Some(gpu), Some(range)) => write(gpu, range, part),
                _ => self.optimizer.write_gradient(id, part)?,
            }
        }
        Ok(())
    }

    /// Takes a step and waits for it.
    pub(crate) fn step(&mut self) -> Result<(), Error> {
        match &mut self.slices {
            None => self.optimizer.step()?,
            Some((parameters, gradients)) => {
                let (mut w, mut g) = (parameters.as_mut_slice(), gradients.as_slice());
                let mut tensors = Vec::with_capacity(self.ids.len());
                for (&id, &len) in self.ids.iter().zip(&self.lens) {
                    let (Some(parameter), gradient) = (w.split_off_mut(..len), g.split_off(..len)) else { break };
                    tensors.push(Slices { id, parameter, gradient });
                }
                self.optimizer.step_slices(&mut tensors)?;
            }
        }
        self.gpu.as_ref().map_or(Ok(()), wait)
    }

    pub(crate) fn read(&self) -> Result<Vec<f32>, Error> {
        if let Some((parameters, _)) = &self.slices {
            return Ok(parameters.clone());
        }
        let mut all = Vec::new();
        for &id in &self.ids {
            all.extend(self.optimizer.read_blocking::<f32>(id)?);
        }
        Ok(all)
    }
}

/// A range for each tensor, in one buffer for all or in a buffer of its own.
fn ranges(gpu: &Gpu, lens: &[usize], memory: Memory) -> Vec<BufferRange> {
    let buffer = |len: usize| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("benchmark"),
            size: 4 * len as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    if memory == Memory::Buffers {
        return lens.iter().map(|&len| BufferRange::whole(&buffer(len))).collect();
    }
    // At multiples of 16 bytes.
    let pool = buffer(lens.iter().map(|len| len.next_multiple_of(4)).sum());
    let mut start = 0;
    let mut range = |&len: &usize| {
        let range = BufferRange::new(&pool, 4 * start as u64, len);
        start += len.next_multiple_of(4);
        range
    };
    lens.iter().map(&mut range).collect()
}

fn write(gpu: &Gpu, range: &BufferRange, values: &[f32]) {
    gpu.queue().write_buffer(&range.buffer, range.offset, bytemuck::cast_slice(values));
}
