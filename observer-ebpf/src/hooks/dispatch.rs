//! What is attached to the tracepoints: it calls the program of the build in force.
//!
//! A link to a tracepoint cannot be given another program, and of two programs at one tracepoint both run for each event. So
//! what is attached is one tail call, through an array of one place: whoever stores another program there replaces the one
//! before atomically, and each event is seen by exactly one of them.
//!
//! - Hooks: `tp_btf` of each tracepoint that a program of `state.rs`, `reset.rs` and `error.rs` is for.
//! - Context: that of the program that is called.
//! - Minimum kernel: 5.5 (`tp_btf`), hence `state.rs`'s. A program array for each tracepoint: from 6.0 on one takes only
//!   programs whose arguments are of one type.
//! - Writes: nothing.
//! - Misses: what the kernel skips because the same tracepoint is at work on the processor already; the programs that are
//!   called are not skipped.
//! - Costs: a tail call for each event.

use aya_ebpf::{
    btf_maps::ProgramArray,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

macro_rules! dispatcher {
    ($name:ident, $programs:ident, $function:tt) => {
        #[btf_map]
        static $programs: ProgramArray<1> = ProgramArray::new();

        /// See the module.
        #[btf_tracepoint(function = $function)]
        #[inline(always)]
        pub(crate) fn $name(ctx: BtfTracePointContext) -> i32 {
            // SAFETY: the callee is a program of the same tracepoint. It does not come back, unless there is none.
            unsafe { $programs.tail_call(&ctx, 0) };
            0
        }
    };
}

dispatcher!(dispatch_state, AT_STATE, "inet_sock_set_state");
dispatcher!(dispatch_destroy, AT_DESTROY, "tcp_destroy_sock");
dispatcher!(dispatch_reset_in, AT_RESET_IN, "tcp_receive_reset");
dispatcher!(dispatch_reset_out, AT_RESET_OUT, "tcp_send_reset");
dispatcher!(dispatch_error, AT_ERROR, "inet_sk_error_report");
