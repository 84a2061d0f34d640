export { Optimizer } from './wgpu_optim.js';
export type {
    Averaging,
    ClipNorm,
    ErrorCode,
    GroupOptions,
    LossScaler,
    Norm,
    OptimError,
    ParameterOptions,
    Precision,
    Report,
    Rule,
    RuleName,
    RuleOptions,
    Safeguards,
    Settings,
    WeightDecay,
} from './wgpu_optim.js';
