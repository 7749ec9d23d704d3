/** What every command shares: how it is declared, what it is given, and how it ends. */
import { Option, type Command } from 'commander';
import { createOptionFaults, type OptionFaults } from './option-faults.ts';
import type { Paint } from './event-line.ts';

/** Exit statuses of every command; shown by `tidegate --help`. */
export const ExitCode = {
  ok: 0,
  /** The command worked, and what it looked at is not in order. */
  amiss: 1,
  /** The command could not do its work: bad options, nothing answers, a file cannot be read. */
  failed: 2,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

export interface CommandContext {
  env: NodeJS.ProcessEnv;
  /** Aborted by Ctrl-C or SIGTERM. */
  signal: AbortSignal;
  /** Results. Resolves when the reader has room; ends the process quietly when it has gone. */
  print(line: string): Promise<void>;
  /** Progress and remarks, beside the results. */
  note(line: string): void;
  /** Overwrites itself; only on a terminal, empty text clears it. */
  progress(line: string): void;
  paint: Paint;
}

/** Values as given; a flag is true. */
export type OptionValues = Readonly<Record<string, string | boolean | undefined>>;

export interface CommandSpec {
  name: string;
  summary: string;
  argument?: { name: string; description: string };
  options: readonly Option[];
  /** Command lines with what they do. */
  examples: readonly (readonly [command: string, does: string])[];
  /** More text for --help. */
  details?: string;
  /** `faults` holds what was found so far: add to it, and call `check()` before doing anything. */
  run(input: { argument: string; options: CommandOptions; faults: OptionFaults }, context: CommandContext): Promise<ExitCode>;
}

/** Texts and flags of a command's options by their attribute name (`noFollow` is `follow: false`). */
export interface CommandOptions {
  text(name: string): string | undefined;
  flag(name: string): boolean;
}

/** Commands of two words. */
export interface CommandGroup {
  name: string;
  summary: string;
  commands: readonly CommandSpec[];
}

/** Adds the group's commands to the program. */
export function addGroup(program: Command, group: CommandGroup, context: CommandContext, end: (code: ExitCode) => void): void {
  const examples = group.commands.flatMap(command => command.examples);
  const parent = program.command(group.name).summary(group.summary).description(group.summary).addHelpText('after', examplesText(examples));
  for (const spec of group.commands) addCommand(parent, spec, context, end);
}

/** Adds a command to the program. `end` is called with its exit status. */
export function addCommand(program: Command, spec: CommandSpec, context: CommandContext, end: (code: ExitCode) => void): void {
  const command = program
    .command(spec.name)
    .summary(spec.summary)
    .description(spec.details === undefined ? spec.summary : `${spec.summary}\n\n${spec.details}`)
    .usage(spec.argument ? `<${spec.argument.name}> [options]` : '[options]')
    // Taken here and reported with all other faults.
    .allowUnknownOption()
    .allowExcessArguments()
    .addHelpText('after', examplesText(spec.examples));
  const fullName = [program.parent && program.name(), spec.name].filter(Boolean).join(' ');
  if (spec.argument) command.argument(`[${spec.argument.name}]`, spec.argument.description);
  for (const option of spec.options) command.addOption(option);
  command.action(async () => {
    const faults = createOptionFaults();
    const words = command.args.filter(word => !/^-./.test(word));
    const unknown = command.args.filter(word => /^-./.test(word));
    for (const word of unknown) faults.add(word.split('=')[0]!, `an option of \`tidegate ${fullName} --help\``, word);
    // A word after an unknown option may be its value.
    const most = spec.argument ? 1 : 0;
    if (unknown.length === 0) for (const word of words.slice(most)) faults.add('argument', most === 0 ? 'none' : 'one only', word);
    if (spec.argument && words[0] === undefined) faults.add(`<${spec.argument.name}>`, spec.argument.description, undefined);
    const values = command.opts<Record<string, string | boolean | undefined>>();
    const options: CommandOptions = {
      text: name => {
        const value = values[name];
        return typeof value === 'string' ? value : undefined;
      },
      flag: name => values[name] === true,
    };
    end(await spec.run({ argument: words[0] ?? '', options, faults }, context));
  });
}

export const DEFAULT_API_PORT = '7400';
export const DEFAULT_NATS_PORT = '7422';

/** Where `tidegate up` has the same settings, its API is found. */
export function apiOption(): Option {
  const port = process.env['TIDEGATE_API_PORT'] || DEFAULT_API_PORT;
  return new Option('--api <url>', 'address of the API').env('TIDEGATE_API_URL').default(`http://127.0.0.1:${port}`);
}

/** With `natsUrl()` and `natsUser()` of nats-access.ts. */
export function natsOption(): Option {
  const port = process.env['TIDEGATE_NATS_PORT'] || DEFAULT_NATS_PORT;
  return new Option('--nats <url>', 'address of NATS').env('TIDEGATE_NATS_URL').default(`nats://127.0.0.1:${port}`);
}

export function apiUrlOf(faults: OptionFaults, text: string | undefined): string {
  return urlOf(faults, '--api', text, ['http:', 'https:']);
}

export function natsUrlOf(faults: OptionFaults, text: string | undefined): string {
  return urlOf(faults, '--nats', text, ['nats:', 'tls:', 'ws:', 'wss:']);
}

function urlOf(faults: OptionFaults, field: string, text: string | undefined, protocols: readonly string[]): string {
  const urls = (text ?? '').split(',').map(each => (URL.canParse(each) ? new URL(each) : undefined));
  if (!urls.every(url => url !== undefined && protocols.includes(url.protocol)))
    faults.add(field, `an address that begins with ${protocols.map(protocol => `${protocol}//`).join(' or ')}`, text ?? '');
  return text ?? '';
}

function examplesText(examples: CommandSpec['examples']): string {
  const width = Math.max(...examples.map(([command]) => command.length));
  return `\nExamples:\n${examples.map(([command, does]) => `  $ ${command.padEnd(width)}  # ${does}`).join('\n')}`;
}
