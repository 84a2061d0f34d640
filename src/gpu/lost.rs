//! What wgpu has against what it is asked to do, and whether the device is still there.
//!
//! wgpu tells its errors to scopes. It panics about an error that no scope catches, unless the owner of the device has
//! set a handler, which is not ours to call either. So all work goes through [`Gpu::scoped`]. A lost device raises no
//! errors at all: what is made on it is invalid, and what is submitted to it is dropped. So whoever must know asks
//! [`Gpu::check_alive`].

use std::sync::atomic::Ordering;

use super::Gpu;
use crate::error::{Error, Result};

/// How long one wait holds wgpu's locks. In OpenGL, another thread that needs the context for longer than a second
/// panics.
#[cfg(not(target_family = "wasm"))]
const SLICE: std::time::Duration = std::time::Duration::from_millis(100);

impl Gpu {
    /// [`Error::DeviceLost`] if a callback of ours has been told. Costs nothing, and is late: natively the callback
    /// comes with a poll, in a browser with the next turn of the page.
    pub(crate) fn check_flag(&self) -> Result<()> {
        let lost = self.0.lost.as_ref().is_some_and(|lost| lost.load(Ordering::Relaxed));
        if lost { Err(Error::DeviceLost) } else { Ok(()) }
    }

    /// [`Error::DeviceLost`] if the device is lost, be it our own or a caller's. Makes no object and submits nothing.
    ///
    /// In a browser only the device-lost callback tells.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.check_flag()?;
        #[cfg(not(target_family = "wasm"))]
        {
            // A device that is there complains about a buffer for no use; a lost one says nothing, as WebGPU demands.
            let scope = self.device().push_error_scope(wgpu::ErrorFilter::Validation);
            let usage = wgpu::BufferUsages::empty();
            let useless = wgpu::BufferDescriptor { label: None, size: 0, usage, mapped_at_creation: false };
            drop(self.device().create_buffer(&useless));
            if pollster::block_on(scope.pop()).is_none() {
                return Err(Error::DeviceLost);
            }
        }
        Ok(())
    }

    /// What the device has refused until now. Natively every call returns its own errors, and this only says whether
    /// the device is lost. A browser answers later: there a call returns the error of an earlier one, and this waits
    /// for all answers.
    ///
    /// # Errors
    /// [`Error::Shader`], [`Error::Rejected`], [`Error::DeviceLost`].
    pub async fn check(&self) -> Result<()> {
        #[cfg(target_family = "wasm")]
        self.0.answers.all().await?;
        self.check_alive()
    }

    /// Waits until all work that is submitted by now has finished, and returns what [`Gpu::check`] does.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub async fn idle(&self) -> Result<()> {
        #[cfg(not(target_family = "wasm"))]
        self.wait_for_all()?;
        #[cfg(target_family = "wasm")]
        {
            let (sender, done) = futures_channel::oneshot::channel();
            self.queue().on_submitted_work_done(move || _ = sender.send(()));
            // wgpu calls back on a lost device, too.
            _ = done.await;
        }
        self.check().await
    }

    /// Lets others call back: for a millisecond, in a browser until the work that is submitted by now has finished.
    pub(crate) async fn pause(&self) -> Result<()> {
        #[cfg(not(target_family = "wasm"))]
        std::thread::sleep(std::time::Duration::from_millis(1));
        #[cfg(target_family = "wasm")]
        self.idle().await?;
        Ok(())
    }

    /// Runs `f` and returns what wgpu has against it, or [`Error::DeviceLost`]. In a browser it returns what wgpu had
    /// against an earlier call, and then does not run `f`.
    pub(crate) fn scoped<T>(&self, operation: &'static str, f: impl FnOnce() -> T) -> Result<T> {
        let result = self.caught(operation, f)?;
        self.check_alive()?;
        Ok(result)
    }

    /// [`Gpu::scoped`] for an `f` that sees for itself whether the device is lost.
    pub(crate) fn caught<T>(&self, operation: &'static str, f: impl FnOnce() -> T) -> Result<T> {
        self.explained(f, async move |reason| Error::Rejected { operation, reason })
    }

    /// [`Gpu::caught`] with an error of its own.
    pub(crate) fn explained<T>(
        &self,
        f: impl FnOnce() -> T,
        explain: impl AsyncFnOnce(String) -> Error + 'static,
    ) -> Result<T> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        #[cfg(target_family = "wasm")]
        self.0.answers.arrived()?;
        let [a, b, c] = [Internal, OutOfMemory, Validation].map(|filter| self.device().push_error_scope(filter));
        let result = f();
        let scopes = [c, b, a].map(|scope| scope.pop());
        #[cfg(not(target_family = "wasm"))]
        if let Some(e) = scopes.map(pollster::block_on).into_iter().flatten().next() {
            self.check_alive()?;
            return Err(pollster::block_on(explain(e.to_string())));
        }
        #[cfg(target_family = "wasm")]
        self.0.answers.push(async move {
            let mut first = None;
            for scope in scopes {
                first = first.or(scope.await);
            }
            Some(explain(first?.to_string()).await)
        });
        Ok(result)
    }

    /// Calls back about work that has finished. Does not wait.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn poll(&self) -> Result<()> {
        self.poll_for(wgpu::PollType::Poll).map(drop)
    }

    /// Waits until this submission has finished, and calls back about it.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn wait(&self, submission: &wgpu::SubmissionIndex) -> Result<()> {
        let wait = || wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: Some(SLICE) };
        while !self.poll_for(wait())? {}
        Ok(())
    }

    /// Waits until all work that is submitted by now has finished, and calls back about it.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn wait_for_all(&self) -> Result<()> {
        let last = self.caught("waiting", || self.queue().submit([]))?;
        self.wait(&last)
    }

    /// Polls once: whether all that was waited for has finished. wgpu panics where the driver loses the device
    /// meanwhile.
    #[cfg(not(target_family = "wasm"))]
    fn poll_for(&self, poll: wgpu::PollType) -> Result<bool> {
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.device().poll(poll)));
        self.check_alive()?;
        match polled {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(wgpu::PollError::Timeout)) => Ok(false),
            Ok(Err(e)) => Err(Error::Rejected { operation: "waiting", reason: e.to_string() }),
            // A callback of somebody else's.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A new buffer with this content, for use within [`Gpu::scoped`]. (wgpu's `create_buffer_init` panics where there
    /// is no memory.)
    pub(crate) fn buffer_of(&self, label: &str, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let (label, size) = (Some(label), contents.len().next_multiple_of(4) as u64);
        let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: true };
        let buffer = self.device().create_buffer(&descriptor);
        if let Ok(mut view) = buffer.get_mapped_range_mut(..) {
            view.slice(..contents.len()).copy_from_slice(contents);
        }
        buffer.unmap();
        buffer
    }
}
