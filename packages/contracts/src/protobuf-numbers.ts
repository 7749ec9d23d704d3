/**
 * Makes protobufjs give 64-bit integers as numbers. Must be imported before the generated messages: their prototypes fix it when they load.
 *
 * Exact to 2^53: sequence and batch numbers for ever, ktime for 104 days of uptime (after that to 2 ns or more; exec_id, a string, stays exact), wall time to 256 ns.
 * Long objects would cost an allocation for each.
 */
import protobuf from 'protobufjs/minimal.js';

(protobuf.util as { Long: unknown }).Long = null;
protobuf.configure();
