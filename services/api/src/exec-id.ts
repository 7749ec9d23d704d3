/** exec_id: base64("<node>:<ktime>:<pid>"). */

export interface ExecId {
  /** In the form events have it. */
  text: string;
  node: string;
  /** CLOCK_BOOTTIME of the process's start, plus the number of execs in its lineage: of two images of one process the later has the greater. */
  ktimeNs: bigint;
  pid: number;
}

const PLAIN = /^([\x21-\x7e]{1,253}):(\d{1,19}):(\d{1,10})$/;

/** Takes base64url too, as an exec_id in a path is easier so. undefined: not an exec_id. */
export function parseExecId(text: string): ExecId | undefined {
  if (!/^[A-Za-z0-9+/_-]+={0,2}$/.test(text)) return undefined;
  const plain = Buffer.from(text, 'base64').toString('latin1');
  const match = PLAIN.exec(plain);
  if (!match) return undefined;
  return { text: Buffer.from(plain, 'latin1').toString('base64'), node: match[1]!, ktimeNs: BigInt(match[2]!), pid: Number(match[3]) };
}
