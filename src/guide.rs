//! The guide: a page for each use.
//!
//! | you want to | page |
//! | --- | --- |
//! | step in your own encoder, on your buffers | [`own_encoder`] |
//! | clip, scale the loss, schedule and average without waiting for the GPU | [`never_waiting`] |
//! | train Burn's modules | [`with_burn`] |
//! | save and resume, import from and export to PyTorch | [`checkpoints`] |
//! | choose a rule, its options and settings | [`rules`] |
//! | store states in 8 bits, parameters and gradients in 16 | [`precision`] |
//! | fit and minimize on the whole batch | [`solvers`] |
//! | write a rule of your own | [`own_rule`] |
//! | run in a browser | [`browser`] |
//! | know what NaN, ∞ and other devices do, and the limits | [`numbers`] |

pub mod own_encoder {
    #![doc = include_str!("guide/own_encoder.md")]
    //!
    //! ```no_run
    #![doc = include_str!("../examples/share_device.rs")]
    //! ```

    #[cfg(doc)]
    use crate::*;
}

pub mod never_waiting {
    #![doc = include_str!("guide/never_waiting.md")]

    #[cfg(doc)]
    use crate::*;
}

pub mod with_burn {
    #![doc = include_str!("guide/with_burn.md")]

    #[cfg(doc)]
    use crate::*;
}

pub mod checkpoints {
    #![doc = include_str!("guide/checkpoints.md")]
    //!
    //! ```python
    #![doc = include_str!("../examples/torch_optimizer.py")]
    //! ```

    #[cfg(doc)]
    use crate::*;
}

pub mod precision {
    #![doc = include_str!("guide/precision.md")]

    #[cfg(doc)]
    use crate::*;
}

pub mod rules {
    #![doc = include_str!("guide/rules.md")]

    #[cfg(doc)]
    use crate::*;
}

pub mod solvers {
    #![doc = include_str!("guide/solvers.md")]

    #[cfg(doc)]
    use crate::*;
}

pub mod own_rule {
    #![doc = include_str!("guide/own_rule.md")]
    //!
    //! ```no_run
    #![doc = include_str!("../examples/custom_rule.rs")]
    //! ```

    #[cfg(doc)]
    use crate::*;
}

pub mod browser {
    #![doc = include_str!("guide/browser.md")]

    #[cfg(doc)]
    use crate::*;
}

pub mod numbers {
    #![doc = include_str!("guide/numbers.md")]

    #[cfg(doc)]
    use crate::*;
}
