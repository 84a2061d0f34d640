//! Copies between ranges on the device and vectors on the host.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use super::Gpu;
use super::memory::BufferRange;
use super::own::OwnBuffer;
use crate::error::{Error, Result};
use crate::formats::{Format, remainder};
use crate::rule::Real;

/// Elements that are handed to wgpu at a time. wgpu keeps a copy of what is written until the next submission.
pub(crate) const PIECE: usize = 1 << 22;

impl Gpu {
    /// Copies the range to the host, after all work that is submitted by now.
    pub(crate) async fn read(&self, range: &BufferRange, name: &str) -> Result<Vec<f32>> {
        let decode = |numbers: &[u8], absmax: &[u8]| {
            range.format.decode(numbers, &bytemuck::pod_collect_to_vec::<_, f32>(absmax)).into_owned()
        };
        self.read_mapped(range, name, decode).await
    }

    /// Copies a parameter to the host, with the remainders that are beside it.
    pub(crate) async fn read_with(
        &self,
        range: &BufferRange,
        beside: Option<&BufferRange>,
        name: &str,
    ) -> Result<Vec<f32>> {
        match beside.filter(|beside| beside.format == Format::Remainder) {
            Some(beside) => {
                let upper = self.read_bytes(range, name).await?;
                Ok(remainder::joined(&upper, &self.read_bytes(beside, name).await?))
            }
            None => self.read(range, name).await,
        }
    }

    /// Writes a parameter and what is beside it, as [`Gpu::write`].
    pub(crate) fn write_with(
        &self,
        range: &BufferRange,
        beside: Option<&BufferRange>,
        values: &[f32],
        name: &str,
    ) -> Result<()> {
        let Some(beside) = beside else { return self.write(range, values, name) };
        match beside.format {
            Format::Remainder => {
                let upper = |values: &[f32]| (Cow::Owned(remainder::uppers(values)), Vec::new());
                self.write_as(range, values, name, upper)?;
            }
            _ => self.write(range, values, name)?,
        }
        self.write(beside, values, name)
    }

    /// The range as it is stored; of blocks, the codes alone.
    pub(crate) async fn read_bytes(&self, range: &BufferRange, name: &str) -> Result<Vec<u8>> {
        self.read_mapped(range, name, |bytes, _| bytes.to_vec()).await
    }

    /// What `f` makes of the range and, of blocks, of their largest magnitudes.
    async fn read_mapped<T: Default>(
        &self,
        range: &BufferRange,
        name: &str,
        f: impl FnOnce(&[u8], &[u8]) -> T,
    ) -> Result<T> {
        range.check_usage(name, wgpu::BufferUsages::COPY_SRC)?;
        if range.len == 0 {
            return self.check_alive().map(|()| T::default());
        }
        let failed = |reason: String| Error::ReadBack { name: name.into(), reason };
        let (sender, mapped) = futures_channel::oneshot::channel();
        let absmax = range.absmax();
        let copied = self.scoped("a read-back", || {
            let staging = OwnBuffer::new(self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-optim read-back"),
                size: range.words() + absmax.as_ref().map_or(0, BufferRange::words),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }));
            let (mut encoder, mut at) = (self.encoder(), 0);
            for part in [Some(range), absmax.as_ref()].into_iter().flatten() {
                encoder.copy_buffer_to_buffer(&part.buffer, part.offset, &staging, at, part.words());
                at += part.words();
            }
            let submission = self.queue().submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., move |result| _ = sender.send(result));
            (staging, submission)
        });
        let (staging, submission) = copied.map_err(|e| match e {
            Error::Rejected { reason, .. } => failed(reason),
            e => e,
        })?;
        self.mapped(&submission, mapped).await?;
        let view =
            staging.get_mapped_range(..).map_err(|e| self.check_alive().err().unwrap_or(failed(e.to_string())))?;
        // Without what is behind the last number in its word.
        Ok(f(&view[..range.size() as usize], &view[range.words() as usize..]))
    }

    /// Waits for a mapping that was asked for after this submission.
    pub(crate) async fn mapped(
        &self,
        submission: &wgpu::SubmissionIndex,
        mapped: futures_channel::oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
    ) -> Result<()> {
        #[cfg(not(target_family = "wasm"))]
        self.wait(submission)?;
        #[cfg(target_family = "wasm")]
        let _ = submission;
        // Another thread that polls may be the one that calls back; if that panics, nobody does.
        let dropped = |_| Error::Rejected { operation: "a mapping", reason: "its callback was dropped".into() };
        // The mapping of a healthy buffer fails only where there is no device any more.
        let mapped = mapped.await.map_err(dropped)?;
        // In a browser every answer about what led to it is there now.
        #[cfg(target_family = "wasm")]
        self.check().await?;
        mapped.map_err(|_| Error::DeviceLost)
    }

    /// Writes the range, before all work that is submitted from now on. Submits whenever [`PIECE`] elements have been
    /// written, of one tensor or of many, so that staging memory stays below twice that.
    pub(crate) fn write(&self, range: &BufferRange, values: &[f32], name: &str) -> Result<()> {
        self.write_as(range, values, name, |piece| range.format.encode(piece))
    }

    fn write_as<'v>(
        &self,
        range: &BufferRange,
        values: &'v [f32],
        name: &str,
        encode: impl Fn(&'v [f32]) -> (Cow<'v, [u8]>, Vec<f32>),
    ) -> Result<()> {
        range.check_usage(name, wgpu::BufferUsages::COPY_DST)?;
        self.scoped("a write", || {
            for (start, piece) in (0..).step_by(PIECE).zip(values.chunks(PIECE)) {
                let part = range.part(start..start + piece.len() as u64);
                let (bytes, absmax) = encode(piece);
                self.write_part(&part, bytes);
                self.write_absmax(&part, &absmax);
            }
        })
    }

    /// Writes a range of blocks as it is stored, as [`Gpu::write`].
    pub(crate) fn write_blocks(&self, range: &BufferRange, codes: &[u8], absmax: &[f32], name: &str) -> Result<()> {
        range.check_usage(name, wgpu::BufferUsages::COPY_DST)?;
        self.scoped("a write", || {
            self.write_part(range, Cow::Borrowed(codes));
            self.write_absmax(range, absmax);
        })
    }

    fn write_absmax(&self, range: &BufferRange, absmax: &[f32]) {
        if let Some(largest) = range.absmax() {
            self.write_part(&largest, Cow::Borrowed(bytemuck::cast_slice(absmax)));
        }
    }

    fn write_part(&self, range: &BufferRange, mut bytes: Cow<'_, [u8]>) {
        if !bytes.len().is_multiple_of(4) {
            // No other range starts in the last word, and this one owns it: see `BufferRange::of`.
            let words = bytes.len().next_multiple_of(4);
            bytes.to_mut().resize(words, 0);
        }
        self.queue().write_buffer(&range.buffer, range.offset, &bytes);
        if self.0.unsent.fetch_add(range.len, Relaxed) + range.len >= PIECE {
            self.0.unsent.store(0, Relaxed);
            self.queue().submit([]);
        }
    }

    /// Sets the first `len` elements of each range to its value, before all work that is submitted from now on.
    pub(crate) fn fill(&self, ranges: &[BufferRange], values: &[f64], len: u64, name: &str) -> Result<()> {
        let pieces = ranges.iter().zip(values);
        let (zero, other): (Vec<_>, Vec<_>) = pieces.partition(|&(_, &value)| value == 0.0);
        self.scoped("a fill", || {
            let mut encoder = self.encoder();
            for (range, _) in zero {
                let all = range.part(0..len);
                for part in [Some(&all), all.absmax().as_ref()].into_iter().flatten() {
                    encoder.clear_buffer(&part.buffer, part.offset, Some(part.words()));
                }
            }
            self.queue().submit([encoder.finish()]);
        })?;
        for (range, &value) in other {
            let piece = vec![f32::of(value); PIECE.min(len as usize)];
            for start in (0..len).step_by(PIECE) {
                let part = range.part(start..len.min(start + PIECE as u64));
                self.write(&part, &piece[..part.len], name)?;
            }
        }
        Ok(())
    }
}
