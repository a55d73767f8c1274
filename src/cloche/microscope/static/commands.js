// The command that produces the data of an empty view.
import { quoted } from './format.js';
import { stateOf, stepOf } from './store.js';

// Source of an adopted run, which has no logs; null for a run that was trained here.
export function adoptedFrom(run) {
  const source = run.about.info.adopted?.source;
  return typeof source === 'string' ? source : null;
}

// Resumes training; a finished run needs more steps.
export function resumeCommand(run, ...settings) {
  if (adoptedFrom(run)) return `cloche pretrain --from ${quoted(run.about.path)} --out RUN`;
  const more = stateOf(run).word === 'finished' ? [`run.steps=${2 * (stepOf(run) || 100)}`] : [];
  const sets = [...more, ...settings];
  return ['cloche resume', quoted(run.about.path), ...(sets.length ? ['--set', ...sets.map(quoted)] : [])].join(' ');
}

// A `cloche sae` command for a dictionary; null without a name.
export function saeCommand(verb, run, name) {
  return name ? `cloche sae ${verb} ${quoted(run.about.path)} ${quoted(name)}` : null;
}

// The next command towards features: read a trained dictionary, else train one, else resume training to get a checkpoint.
export function featuresCommand(run) {
  const { dictionaries, checkpoints, path } = run.about;
  if (dictionaries.length) return saeCommand('features', run, dictionaries[0]);
  return checkpoints.length ? `cloche sae train ${quoted(path)}` : resumeCommand(run);
}
