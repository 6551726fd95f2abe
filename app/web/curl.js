// What was just done, as a line for a shell.

import { restoredName } from "./pictures.js";
import { address, hasKey } from "./service.js";

/** A word of a POSIX shell that stands for exactly this text. */
export function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The command that restores the photograph of a job as it was restored; the key comes from $DERAIN_KEY. */
export function command(job) {
  const { prompt, model, format } = job.asked;
  // within a form, curl ends the name of a file at , and ; unless it is quoted
  const name = job.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
  const parts = [`curl --fail-with-body -F ${quote(`image=@"${name}"`)}`];
  if (prompt) parts.push(`--form-string ${quote(`prompt=${prompt}`)}`); // -F would read a file for @ and <
  if (model) parts.push(`-F ${quote(`model=${model}`)}`);
  if (format) parts.push(`-F format=${format}`);
  if (hasKey()) parts.push('-H "Authorization: Bearer $DERAIN_KEY"');
  parts.push(`${quote(address("derain"))} -o ${quote(restoredName(job.name, job.answer.type))}`);
  return parts.join(" \\\n  ");
}
