/** All commands, and how their failures are told. */
import { Command, CommanderError } from 'commander';
import { TidegateError } from '@tidegate/runtime';
import { ExitCode, addCommand, addGroup, type CommandContext, type CommandSpec } from './command.ts';
import { auditCommand } from './commands/audit.ts';
import { captureCommand } from './commands/capture.ts';
import { eventsCommand } from './commands/events.ts';
import { nodeCommands } from './commands/node.ts';
import { playCommand } from './commands/play.ts';
import { statusCommand } from './commands/status.ts';
import { treeCommand } from './commands/tree.ts';
import { upCommand } from './commands/up.ts';
import { VERSION } from './version.ts';

const COMMANDS: readonly CommandSpec[] = [upCommand, eventsCommand, treeCommand, statusCommand, captureCommand, playCommand, auditCommand];

const HELP = `
Examples:
  $ tidegate up                           # start everything on this machine
  $ tidegate events                       # in another terminal: what programs do, as they do it
  $ tidegate events --since 15m -n shop   # the last 15 minutes of one namespace, then follow
  $ tidegate tree 4711                    # where a process came from and what it started
  $ tidegate audit --from 1h              # prove that nothing of the last hour is missing

Exit status:
  0  done
  1  done, and something is not in order (status, audit)
  2  not done: bad options, nothing answers, a file cannot be read`;

/** Parses and runs a command line; resolves to the exit status. */
export async function runProgram(argv: readonly string[], context: CommandContext): Promise<ExitCode> {
  let exitCode: ExitCode = ExitCode.ok;
  const program = new Command('tidegate')
    .description('What every process does, as a stream of kernel events')
    .version(VERSION)
    .showSuggestionAfterError()
    .showHelpAfterError('`tidegate --help` lists commands, `tidegate <command> --help` their options')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'tidegate: ')) })
    .configureHelp({ subcommandTerm: command => `${command.name()} ${command.usage()}` })
    // Its own says nothing of a command that does not exist.
    .helpCommand(false)
    .exitOverride()
    .addHelpText('after', HELP);
  for (const spec of COMMANDS) {
    addCommand(program, spec, context, code => {
      exitCode = code;
    });
  }
  addGroup(program, nodeCommands, context, code => {
    exitCode = code;
  });
  program
    .command('help')
    .summary('Show the help of a command')
    .usage('[command]')
    .argument('[command...]')
    .action((names: string[]) => showHelp(program, names));
  if (argv.length <= 2) {
    await context.print(helpOf(program));
    return ExitCode.ok;
  }
  try {
    await program.parseAsync(argv);
    return exitCode;
  } catch (error) {
    // Commander has said it already; --help and --version are no failures.
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.failed;
    if (context.signal.aborted) return ExitCode.ok;
    context.note(context.paint('red', `tidegate: ${failureText(error)}`));
    return ExitCode.failed;
  }
}

function helpOf(program: Command): string {
  return `${program.helpInformation()}${HELP}`;
}

function showHelp(program: Command, names: readonly string[]): void {
  let command = program;
  for (const name of names) {
    const next = command.commands.find(each => each.name() === name);
    if (!next) program.error(`error: unknown command '${name}'`);
    command = next;
  }
  command.outputHelp();
}

function failureText(error: unknown): string {
  if (error instanceof TidegateError) return `${error.message} [${error.code}]`;
  return error instanceof Error ? error.message : String(error);
}
