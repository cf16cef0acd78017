// Commands come in as JSON lines, {"op": name, ...}; for each one line goes out, {"value": ...} or {"error": text}.
// The program ends with its input.
import readline from 'node:readline';

export function obey(commands) {
  const answer = async (line) => {
    try {
      const { op, ...given } = JSON.parse(line);
      return { value: (await commands[op](given)) ?? null };
    } catch (error) {
      return { error: String(error.message ?? error) };
    }
  };
  let last = Promise.resolve();
  readline
    .createInterface({ input: process.stdin })
    .on('line', (line) => {
      last = last.then(async () => process.stdout.write(`${JSON.stringify(await answer(line))}\n`));
    })
    .on('close', () => last.then(() => process.exit(0)));
}
