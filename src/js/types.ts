/// <reference types="@webgpu/types" />

/** A rule by its name; {@link Optimizer.rules} describes each. */
export type RuleName =
    | 'sgd' | 'momentum' | 'momentum-dampened' | 'momentum-lr-inside' | 'momentum-ema' | 'nesterov'
    | 'nesterov-lr-inside' | 'nesterov-ema' | 'adagrad' | 'adagrad-lr-decay' | 'adagrad-keras' | 'rmsprop'
    | 'rmsprop-keras' | 'rmsprop-initial' | 'rmsprop-momentum' | 'rmsprop-momentum-keras' | 'rmsprop-centered'
    | 'rmsprop-centered-momentum' | 'rmsprop-graves' | 'adadelta' | 'adam' | 'adam-keras' | 'adam-eps-root'
    | 'adam-uncorrected' | 'amsgrad' | 'amsgrad-keras' | 'amsgrad-optax' | 'amsgrad-optax-uncorrected' | 'amsgrad-reddi'
    | 'amsgrad-mhat' | 'adamax' | 'adamax-keras' | 'adamax-paper' | 'nadam' | 'nadam-keras' | 'nadam-optax'
    | 'nadam-eps-root' | 'ademamix' | 'lion' | 'signum' | 'sign-sgd' | 'radam' | 'radam-optax' | 'schedule-free-sgd'
    | 'schedule-free-adamw' | 'adabelief' | 'adabelief-rectified' | 'rprop' | 'rprop-lagged' | 'asgd' | 'adopt' | 'adan'
    | 'yogi' | 'laprop' | 'laprop-centered' | 'ftrl' | 'sophia' | 'madgrad' | 'cocob' | 'optimistic-gradient-descent'
    | 'adabound' | 'amsbound' | 'adamod' | 'diffgrad' | 'acprop' | 'pnm' | 'adapnm' | 'aggmo' | 'qhm' | 'qhadam'
    | 'accsgd' | 'pid' | 'adagrad-norm' | 'adagrad-norm-tensor' | 'lamb' | 'lamb-pytorch-optimizer' | 'fromage' | 'lamb-keras' | 'lars' | 'lars-nesterov'
    | 'novograd' | 'novograd-averaged';

/** L2 decay on the gradient, decoupled decay (AdamW), or decoupled and not scaled by the learning rate; or none. */
export type WeightDecay = 'none' | { l2: number } | { decoupled: number } | { decoupledFromLr: number };

/** Which norm of the gradients is limited: of all elements, or its root mean square. */
export type Norm = 'l1' | 'l2' | 'max' | 'rms';

/** A limit on a norm. `eps` is added to the norm; `onlyDown: false` scales every gradient to `maxNorm`. */
export interface ClipNorm {
    maxNorm: number;
    /** Default: `'l2'`. */
    norm?: Norm;
    /** Default: 1e-6, as in PyTorch. */
    eps?: number;
    /** Default: true. */
    onlyDown?: boolean;
}

/** What a group has around its rule. What is left out keeps its value; at first it is off. */
export interface Settings {
    /** Learning rate; default: the rule's. */
    lr?: number;
    /** A factor on the learning rate, 1 by default: for schedules of your own. */
    lrFactor?: number;
    /** Climb instead of descend. */
    maximize?: boolean;
    weightDecay?: WeightDecay;
    /** A factor on every gradient, 1 by default. */
    gradScale?: number;
    /** Clips each element of a gradient to ± this. */
    clipValue?: number | null;
    /** Limits the norm of each parameter's gradient; a number is `{ maxNorm }`. */
    clipNorm?: number | ClipNorm | null;
    /** Limits the norm of the group's gradients together; a number is `{ maxNorm }`. */
    groupClipNorm?: number | ClipNorm | null;
    /** Subtracts the mean of each row of a matrix' gradient. */
    centralize?: boolean;
    /** Limits the norm of each row or column of a gradient to a part of the parameter's (Brock et al. 2021). */
    adaptiveClip?: { clipping: number; eps: number; over: 'row' | 'column' } | null;
    /** Adds Gaussian noise of variance `eta / (1 + t)^gamma` to gradients (Neelakantan et al. 2015). */
    noise?: { eta: number; gamma: number; seed: number } | null;
    /** What micro-batches of {@link Optimizer.accumulate} become. */
    accumulation?: 'mean' | 'sum';
    /** Sets gradients to 0 behind the step. */
    zeroGrad?: boolean;
}

/** An average of the parameters over the steps: exponential, from 0 and divided by 1 − decayᵗ or not, from a step on,
 * or the plain mean of every n-th step from a step on. */
export type Averaging =
    | { ema: number }
    | { emaDebiased: number }
    | { emaFromZero: number }
    | { emaFrom: { decay: number; from: number; warmup: { invGamma: number; power: number } | null } }
    | { swa: { from: number; every: number } };

/** How parameters and states are stored. */
export type Precision = 'f32' | 'block8' | 'bf16' | 'bf16-exact-master';

/** Options of rules, each by its name in Rust; {@link Optimizer.rules} says which rule has which, with defaults. */
export interface RuleOptions {
    momentum?: number;
    dampening?: number;
    nesterov?: boolean;
    form?: 'lr_outside' | 'lr_inside' | 'ema';
    lrDecay?: number;
    initialAccumulatorValue?: number;
    eps?: number;
    epsInside?: boolean;
    epsOutside?: boolean;
    epsHat?: boolean;
    epsRoot?: number;
    alpha?: number;
    centered?: boolean;
    lrInside?: boolean;
    initial?: number;
    rho?: number;
    beta1?: number;
    beta2?: number | null;
    beta3?: number;
    biasCorrection?: boolean;
    trustEps?: number;
    maxWeightNorm?: number | null;
    decayOutside?: boolean;
    minNorm?: number;
    biasCorrectionM?: boolean;
    biasCorrectionV?: boolean;
    /** A flag for AdaPNM. */
    amsgrad?: 'raw' | 'corrected' | boolean | null;
    momentumDecay?: number | null;
    tAlpha?: number | null;
    tBeta3?: number | null;
    b0?: number;
    over?: 'group' | 'tensor';
    trustCoefficient?: number;
    gradAveraging?: boolean;
    degeneratedToSgd?: boolean;
    warmup?: number;
    r?: number;
    weightLrPower?: number;
    rectify?: boolean;
    etaMinus?: number;
    etaPlus?: number;
    stepMin?: number;
    stepMax?: number;
    lagged?: boolean;
    lambd?: number;
    t0?: number;
    clipping?: boolean;
    clipFrom?: number;
    kappa?: number | null;
    proximal?: boolean;
    initialAccumulator?: number;
    gamma?: number;
    clipThreshold?: number;
    updateInterval?: number;
    l1?: number;
    l2?: number;
    l2Shrinkage?: number;
    beta?: number;
    finalLr?: number;
    amsbound?: boolean;
    betas?: [number, number, number];
    nu?: number;
    nu1?: number;
    nu2?: number;
    xi?: number;
    constant?: number;
    integral?: number;
    derivative?: number;
}

/** A parameter group: its rule, the rule's own options, its settings. */
export interface GroupOptions extends Settings, RuleOptions {
    /** Default: `'adam'`. */
    rule?: RuleName;
    /** As text: `'cosine(1000).warmup(20)'`, `'step(30, 0.1)'`, …; `null` for none. */
    schedule?: string | null;
    averaging?: Averaging;
    precision?: Precision;
}

/** A scale on the loss that grows while gradients are finite, as PyTorch's `GradScaler`. */
export interface LossScaler {
    /** Default: 65536. */
    initScale?: number;
    /** Default: 2. */
    growthFactor?: number;
    /** Default: 0.5. */
    backoffFactor?: number;
    /** Default: 2000 steps. */
    growthInterval?: number;
    /** The scale does not fall below it; default: the least normal f32. */
    minScale?: number;
}

/** What concerns the step of all groups. */
export interface Safeguards {
    /** Limits the norm of all gradients together; a number is `{ maxNorm }`. */
    maxNorm?: number | ClipNorm | null;
    /** What a step does whose gradients are not finite: is left out, counts them as 0, or takes them as they are. */
    nonFinite?: 'skip' | 'zero' | 'propagate';
    lossScaler?: LossScaler | null;
}

/** Options of one parameter. */
export interface ParameterOptions {
    /** Its group; default: 0. */
    group?: number;
    /** A factor on the group's learning rate. */
    lrScale?: number;
    /** `false` leaves it out of weight decay. */
    weightDecay?: boolean;
    /** `true` leaves it out of steps. */
    frozen?: boolean;
    /** Rows and columns, for what looks at rows. */
    shape?: [number, number] | null;
}

/** What the last step that has finished says. */
export interface Report {
    /** The norm of its gradients, before clipping; 0 where nothing measures them; NaN or ∞ where they are not finite. */
    gradNorm: number;
    /** Whether a gradient was not finite. */
    foundInf: boolean;
    lossScale: number;
    growthTracker: number;
    /** How many steps were left out. */
    skippedSteps: number;
    /** A group whose learning rate is lost in bf16 parameters that are rounded to the nearest number. */
    lrTooSmall: number | null;
}

/** A rule of {@link Optimizer.rules}. */
export interface Rule {
    name: RuleName;
    /** The learning rate that it has where none is given. */
    lr: number;
    /** Names of its states, as in PyTorch. */
    states: string[];
    /** Bytes that a step moves for each element of a parameter. */
    bytes: number;
    /** Its options with their values. */
    options: Record<string, unknown>;
}

/** What {@link OptimError.code} may be. */
export type ErrorCode =
    | 'NoAdapter' | 'DeviceRefused' | 'Shader' | 'Length' | 'UnknownParameter' | 'UnknownState' | 'UnknownGroup'
    | 'UnknownRule' | 'MissingUsage' | 'Overlap' | 'Misaligned' | 'OutOfBounds' | 'OverLimit' | 'Hyperparameter'
    | 'Schedule' | 'DuplicateName' | 'ElementType' | 'Unsupported' | 'TooManyStepsInFlight' | 'DeviceLost' | 'Io'
    | 'Checkpoint' | 'Mismatch' | 'ReadBack' | 'Rejected' | 'NoDevice' | 'NoBuffer' | 'Options' | 'Busy'
    | 'Destroyed';

/** Every error that the package throws at a call which these types accept. The message is for people, the code for
 * programs. */
export interface OptimError extends Error {
    code: ErrorCode;
}
