// The command that fills a view of this run, as it would be typed.
import { quoted } from './format.js';
import { stateOf, stepOf } from './store.js';

// Where a run of a model that was trained elsewhere is from, which has no logs; null for a run that was trained here.
export function adoptedFrom(run) {
  const source = run.about.info.adopted?.source;
  return typeof source === 'string' ? source : null;
}

// Training goes on; a run that has finished needs more steps to do so.
export function resumeCommand(run, ...settings) {
  if (adoptedFrom(run)) return `cloche pretrain --from ${quoted(run.about.path)} --out RUN`;
  const more = stateOf(run).word === 'finished' ? [`run.steps=${2 * (stepOf(run) || 100)}`] : [];
  const sets = [...more, ...settings];
  return ['cloche resume', quoted(run.about.path), ...(sets.length ? ['--set', ...sets.map(quoted)] : [])].join(' ');
}

// What a verb of `cloche sae` needs for a dictionary; nothing for one that was never given a name.
export function saeCommand(verb, run, name) {
  return name ? `cloche sae ${verb} ${quoted(run.about.path)} ${quoted(name)}` : null;
}

// Where there are no features: a dictionary that was trained is read, a model without one gets one, a run without a model trains.
export function featuresCommand(run) {
  const { dictionaries, checkpoints, path } = run.about;
  if (dictionaries.length) return saeCommand('features', run, dictionaries[0]);
  return checkpoints.length ? `cloche sae train ${quoted(path)}` : resumeCommand(run);
}
