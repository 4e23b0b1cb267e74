'use strict';
// Data come from JSON blocks; every text of them becomes a text node. Nothing is loaded, and nothing is ever read as markup.
const $ = id => document.getElementById(id);
const parsed = id => JSON.parse($(id).textContent);
const col = parsed('index'), size = col.feature.length, PER_PAGE = 50, BLOCK = 256;
const form = $('filters'), cards = $('cards'), blocks = {};
const place = Object.fromEntries(col.feature.map((f, i) => [f, i]));
let order = [], first = 0, haystack = null, timer = 0, transcripts = null, debatesOf = null;

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children) if (child !== null && child !== undefined) node.append(child); // strings become text nodes
  return node;
}
function svg(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
const known = x => x !== null && x !== undefined;
const NONE = 'not measured';
const num = x => !known(x) ? NONE : (x && Math.abs(x) < 0.005 ? String(Number(x.toPrecision(1))) : x.toFixed(2)).replace('-', '−');
const short = (x, digits = 3) => !known(x) ? NONE : String(Number(x.toPrecision(digits)));
const interval = (low, high) => known(low) && known(high) ? ` [${num(low)}, ${num(high)}]` : '';
const percent = x => !known(x) ? NONE : Number((100 * x).toPrecision(3)) + '%';
const visible = text => text.replace(/\r?\n/g, '↵').replace(/\t/g, '⇥');
const coded = (name, i) => col[name].codes[i] < 0 ? null : col[name].texts[col[name].codes[i]];
const nameOf = i => col.names ? col.names[i] : String(col.feature[i]);
const named = feature => known(place[feature]) ? nameOf(place[feature]) : String(feature);
const rank = Object.fromEntries(col.metrics.map((metric, k) => [metric, k]));
const valueOf = (metric, i) => metric in rank ? col.values[rank[metric]][i] : null;
function evidence(i) { // of feature i: the block that holds it is read when the first card of it is opened
  const number = Math.floor(i / BLOCK), block = blocks[number] ||= parsed('evidence-' + number), at = i % BLOCK;
  const [bars, near, logits, bounds] = block.card[at];
  return { bars, near, logits, bounds, windows: block.windows, exemplars: block.exemplars[at], nulls: block.nulls[at], baselines: block.baselines[at],
    counterexamples: block.counterexamples[at], tested: block.tested[at][0], others: block.others[at] };
}

// ------------------------------------------------------------------------- choosing

function words() {
  haystack ||= col.feature.map((f, i) => [col.label[i] || '', col.reason[i] || '', col.top_tokens[i].join(' ')].join('\n').toLowerCase());
  return haystack;
}
function within(value, from, to) { // an empty bound bounds nothing; what was not measured is within no bound
  if (from === '' && to === '') return true;
  return known(value) && (from === '' || value >= Number(from)) && (to === '' || value <= Number(to));
}
function choose() {
  const asked = form.search.value.toLowerCase().split(/\s+/).filter(Boolean), text = words();
  const exact = asked.length === 1 ? /^#?(\d+)([+-]?)$/.exec(asked[0]) : null;
  const isNamed = name => exact && (name === exact[1] + exact[2] || (!exact[2] && name.replace(/[+-]$/, '') === exact[1]));
  const only = {};
  for (const name of ['status', 'explainer', 'predictor']) {
    const field = form.elements[name];
    if (field && field.value) only[name] = col[name].texts.indexOf(field.value);
  }
  const trusted = form.trusted.value, metric = form.metric ? form.metric.value : '';
  const density = [form.density_from.value, form.density_to.value], score = metric ? [form.score_from.value, form.score_to.value] : ['', ''];
  order = [];
  for (let i = 0; i < size; i++) {
    if (trusted && String(col.trusted[i]) !== trusted) continue;
    if (Object.entries(only).some(([name, code]) => col[name].codes[i] !== code)) continue;
    if (!within(col.density[i], ...density) || !within(valueOf(metric, i), ...score)) continue;
    if (asked.length && !isNamed(nameOf(i)) && !asked.every(word => text[i].includes(word))) continue;
    order.push(i);
  }
  const [name, direction] = form.sort.value.split(' '), sign = direction === 'down' ? -1 : 1;
  if (name === 'feature') return;
  const key = name === 'density' ? i => col.density[i] : i => valueOf(name, i);
  order.sort((a, b) => {
    const x = key(a), y = key(b);
    if (!known(x) || !known(y)) return known(y) - known(x) || a - b; // without a value: last, both ways
    // scores of different predictors are not ranked against one another
    if (name !== 'density' && col.predictor.codes[a] !== col.predictor.codes[b]) return coded('predictor', a) < coded('predictor', b) ? -1 : 1;
    return sign * (x - y) || a - b;
  });
}
function render() {
  const pages = Math.max(1, Math.ceil(order.length / PER_PAGE)), page = Math.floor(first / PER_PAGE) + 1;
  cards.replaceChildren(...order.slice(first, first + PER_PAGE).map(card));
  if (!order.length) cards.append(el('p', { class: 'empty' }, 'No feature matches. Clear the search or the filters.'));
  const n = order.length.toLocaleString('en'), all = size.toLocaleString('en');
  $('count').textContent = order.length === size ? `${all} features` : `${n} of ${all} features`;
  for (const pager of document.querySelectorAll('.pager')) {
    const [back, field, next] = pager.querySelectorAll('button, input');
    back.disabled = page <= 1; next.disabled = page >= pages;
    field.value = page; field.max = pages;
    pager.querySelector('.pages').textContent = pages.toLocaleString('en');
  }
}
function update() {
  choose(); first = 0; render();
  if ($('count').getBoundingClientRect().top < form.getBoundingClientRect().bottom) $('count').scrollIntoView(); // it was scrolled away
}
function turn(page) {
  const last = Math.max(0, Math.ceil(order.length / PER_PAGE) - 1);
  first = Math.min(Math.max(Math.trunc(page) - 1 || 0, 0), last) * PER_PAGE;
  render();
  $('features').scrollIntoView(); $('features').focus({ preventScroll: true });
}
function jump() {
  const wanted = /^#([fd])(\d+)$/.exec(location.hash);
  if (!wanted) return;
  if (wanted[1] === 'd') { openDebate(Number(wanted[2])); return; }
  const at = () => order.findIndex(i => col.feature[i] === Number(wanted[2]));
  if (at() < 0) { form.reset(); choose(); }
  if (at() < 0) return;
  first = at() - at() % PER_PAGE;
  render();
  const target = $('f' + wanted[2]);
  target.dispatchEvent(new Event('open'));
  target.scrollIntoView(); target.focus({ preventScroll: true });
}

// ------------------------------------------------------------------------- one card

function highlighted(pieces, levels, maximum) { // pieces: texts, a space before those that begin a word
  const line = el('p', { class: 'text' }), level = {}, places = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';
  for (let k = 0; k + 1 < levels.length; k += 2) level[places.indexOf(levels[k])] = places.indexOf(levels[k + 1]);
  pieces.forEach((text, k) => {
    const space = text.startsWith(' '), shown = visible(space ? text.slice(1) : text);
    if (space && k) line.append(' ');
    if (!level[k]) { line.append(shown); return; }
    line.append(el('span', { class: 'a' + level[k], title: `${level[k]} of 10` + (known(maximum) ? `: about ${short(level[k] / 10 * maximum)}` : '') }, shown));
  });
  return line;
}
function histogram(i, [lowest, step, bars]) {
  if (!bars.length) return null;
  const at = value => (Math.log2(value) + 16) * 8, threshold = col.threshold[i], low = known(threshold) ? at(threshold) : Infinity;
  const width = 240, height = 44, most = Math.max(...bars), wide = width / bars.length, edge = k => 2 ** ((lowest + k * step) / 8 - 16);
  const about = `${bars.reduce((a, b) => a + b).toLocaleString('en')} active tokens in explain, by activation, ` +
    `log scale ${short(edge(0))} to ${short(edge(bars.length))}, threshold ${short(threshold)}`;
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, class: 'hist', role: 'img', 'aria-label': about });
  bars.forEach((count, k) => {
    const tall = count ? Math.max(1, count / most * (height - 2)) : 0;
    const bar = svg('rect', { x: (k * wide).toFixed(1), y: (height - tall).toFixed(1), width: Math.max(1, wide - 1).toFixed(1),
      height: tall.toFixed(1), class: lowest + k * step >= low - 0.01 ? 'fires' : 'weak' });
    const title = svg('title', {});
    title.textContent = `${short(edge(k))} to ${short(edge(k + 1))}: ${count.toLocaleString('en')}`;
    bar.append(title); picture.append(bar);
  });
  return el('div', {}, picture, el('div', { class: 'scale' }, el('span', {}, short(edge(0))),
    el('span', {}, 'threshold ' + short(threshold)), el('span', {}, short(edge(bars.length)))));
}
function scores(i, of) {
  const rows = [], add = (name, text, note) => rows.push(el('tr', {}, el('th', { scope: 'row' }, name),
    el('td', {}, text, ' ', el('span', { class: 'note' }, note))));
  for (const [metric, low, high, n] of of.bounds) add(col.metrics[metric], num(col.values[metric][i]) + interval(low, high), 'n\u00a0' + n);
  for (const [name, value, low, high, n] of of.baselines) add('simulation of ' + name, num(value) + interval(low, high), 'n\u00a0' + n);
  const predictor = coded('predictor', i), model = coded('model', i);
  for (const [metric, name, mean, p, q, difference, low, high] of of.nulls) {
    const rival = { permuted: 'mismatched labels', neighbour: 'the nearest direction\'s label',
      lexical: predictor === 'rule' ? 'the single-token lookup' : 'the lexical rule' }[name] || name;
    add(`${metric} over ${rival}`, (difference > 0 ? '+' : '') + num(difference) + interval(low, high),
      `theirs\u00a0${num(mean)}` + (known(p) ? `, p\u00a0${short(p, 2)}, q\u00a0${short(q, 2)}` : ''));
  }
  const by = known(predictor) ? `written by ${coded('explainer', i)}` + (known(model) ? ` (${model})` : '') + `, predicted by ${predictor}; ` : '';
  return rows.length ? [el('h4', {}, 'Scores on test'), el('p', { class: 'note' }, by + '95% intervals'),
    el('table', { class: 'scores' }, el('tbody', {}, ...rows))] : [el('h4', {}, 'Scores on test'), el('p', { class: 'note' }, NONE)];
}
function counterexamples(i, of) {
  if (!of.tested) return [];
  const [found, tried] = of.tested;
  const items = of.counterexamples.map(([kind, text, p, fires, share, carriers, maximum]) => el('li', {},
    el('p', { class: 'text' }, el('span', { class: 'kind' }, kind), ' ', visible(text || '')),
    el('p', { class: 'note' }, `predicted p(fires) ${num(p)}; ${fires ? 'fired' : 'did not fire'}` +
      (carriers > 1 ? ` (in ${Math.round(share * carriers)} of ${carriers} carriers, the first is shown; highest activation of any` : ' (highest activation') +
      ` ${short(maximum)}, threshold ${short(col.threshold[i])})`)));
  const more = found > items.length ? `, the ${items.length} that contradict it most` : '';
  return [el('h4', {}, `Counterexamples: ${found} of ${tried} experiments on test` + more), items.length ? el('ul', { class: 'plain' }, ...items) : null];
}
function others(of) {
  if (!of.others.length) return [];
  return [el('h4', {}, 'Other explanations of it'), el('ul', { class: 'plain others' }, ...of.others.map(([explainer, model, text, reason, told]) => el('li', {},
    known(text) ? visible(text) : el('span', { class: 'none' }, 'no explanation' + (known(reason) ? ': ' + visible(reason) : '')), ' ',
    el('span', { class: 'note' }, `— ${explainer}` + (known(model) ? `, ${model}` : '') + (told || []).map(([metric, predictor, value]) => `; ${metric} ${num(value)} by ${predictor}`).join('')))))];
}
function logits([up, down]) {
  const list = (title, rows) => el('div', {}, el('h4', {}, title), el('p', { class: 'chips' }, ...rows.flatMap(([token, value]) =>
    [el('code', { title: short(value) }, visible(token)), el('span', { class: 'note' }, ` ${num(value)} `)])));
  return el('div', { class: 'pair' }, list('Logits that it raises most', up), list('Logits that it lowers most', down));
}
function ofDebates(feature) {
  if (!debatesOf) {
    debatesOf = {};
    debates().forEach((debate, k) => (debatesOf[debate.feature] ||= []).push(k));
  }
  return debatesOf[feature] || [];
}
function inside(i) {
  const of = evidence(i), left = el('div', {}), about = el('div', {}), f = col.feature[i];
  about.append(...scores(i, of), el('h4', {}, 'Activation'), el('p', { class: 'note' },
    `active on ${percent(col.density[i])} of tokens; maximum ${short(col.max_activation[i])}`));
  const picture = histogram(i, of.bars);
  if (picture) about.append(picture);
  if (col.top_tokens[i].length) about.append(el('h4', {}, 'Top tokens in explain'),
    el('p', { class: 'chips' }, ...col.top_tokens[i].flatMap(t => [el('code', {}, visible(t)), ' '])));
  if (of.logits) about.append(logits(of.logits));
  if (of.near.length) about.append(el('h4', {}, 'Nearest decoder directions'), el('ul', { class: 'plain near' },
    ...of.near.map(([n, cosine]) => el('li', {}, el('a', { href: '#f' + n }, 'Feature ' + named(n)), ` ${num(cosine)} `,
      el('span', { class: 'note' }, (known(place[n]) && col.label[place[n]]) || 'no label')))));
  for (const [top, title] of [[1, 'Strongest windows of test (top)'], [0, 'Drawn uniformly from the other active windows of test (sample)']]) {
    const mine = of.exemplars.filter(w => w[0] === top);
    if (mine.length) left.append(el('h4', {}, title), ...mine.map(w => highlighted(of.windows[w[1]].map(p => col.pieces[p]), w[2], col.max_activation[i])));
  }
  if (!of.exemplars.length) left.append(el('p', { class: 'note' }, 'No active window in test.'));
  left.append(...counterexamples(i, of).filter(Boolean), ...others(of));
  const held = ofDebates(f);
  if (held.length) left.append(el('h4', {}, 'Debates'), el('p', { class: 'note' }, ...held.flatMap(k => [el('a', { href: '#d' + k }, 'transcript: ' + (debates()[k].verdict ? SIDE[debates()[k].verdict] || debates()[k].verdict : 'undecided')), ' '])));
  return el('div', { class: 'inside' }, col.reason[i] ? el('p', { class: 'note' }, visible(col.reason[i])) : null, el('div', { class: 'columns' }, left, about));
}
function card(i) {
  const f = col.feature[i], trusted = col.trusted[i], status = coded('status', i);
  const badge = (kind, text) => el('span', { class: 'badge ' + kind }, text);
  const main = ['simulation', 'detection', ...col.metrics].find(metric => known(valueOf(metric, i)));
  const button = el('button', { type: 'button', 'aria-expanded': 'false' }, 'Feature ' + nameOf(i));
  const head = el('header', {}, el('h3', { id: 'h' + f }, button), el('p', { class: known(col.label[i]) ? 'label' : 'label none' }, known(col.label[i]) ? visible(col.label[i]) : 'no label'),
    el('span', { class: 'badges' }, main ? badge('value', `${main} ${num(valueOf(main, i))}`) : badge('', 'score ' + NONE),
      known(status) && status !== 'labelled' ? badge(status, status) : null,
      trusted === true ? badge('trusted', 'trusted') : trusted === false ? badge('', 'not trusted') : null));
  const node = el('article', { class: 'card', id: 'f' + f, tabindex: '-1', 'aria-labelledby': 'h' + f }, head);
  const show = open => {
    if (open === node.classList.contains('open')) return;
    node.classList.toggle('open', open);
    button.setAttribute('aria-expanded', String(open));
    if (open) node.append(inside(i)); else node.lastChild.remove();
  };
  head.addEventListener('click', () => { if (!String(getSelection())) show(!node.classList.contains('open')); });
  node.addEventListener('open', () => show(true));
  if (form.opened.checked) show(true);
  return node;
}

// ------------------------------------------------------------------------- debates

const SIDE = { A: 'A holds', B: 'B holds', both: 'A or B', overlap: 'A and B', neither: 'neither' }, FIVE = ['A', 'B', 'A or B', 'A and B', 'neither'];
function debates() { return transcripts ||= $('transcripts') ? parsed('transcripts') : []; }
function statement(speaker, text, unsupported) {
  if (!known(text)) return null;
  return el('p', { class: 'said' }, el('b', { class: { A: 'side-a', B: 'side-b' }[speaker] || '' }, (speaker || 'somebody') + ': '), visible(text),
    unsupported.length ? el('span', { class: 'wrong' }, ` [not borne out: ${unsupported.join(', ')}]`) : null);
}
function shown(turn, maximum) {
  if (turn[0] === null) return el('li', { class: 'closing' }, statement(turn[1], turn[2], turn[3]));
  const [kind, proposer, text, pieces, levels, p, fired, share, gain, chances, leader, lead, speaker, said, unsupported] = turn;
  const spaced = pieces.map((piece, k) => k && !piece.startsWith('##') ? ' ' + piece : piece.replace(/^##/, ''));
  const foresaw = (side, value) => !known(value) ? `${side} ${NONE}; ` : el('span', {}, el('b', { class: 'side-' + side.toLowerCase() }, side + ' '), `${Math.round(100 * value)}% `,
    fired === null ? '' : el('span', { class: (value >= 0.5) === fired ? 'right' : 'wrong' }, (value >= 0.5) === fired ? 'foresaw' : 'erred'), '; ');
  const outcome = fired === null ? NONE : fired ? 'it fired' : 'silent';
  const bar = el('div', { class: 'chances', role: 'img', 'aria-label': 'chances: ' + FIVE.flatMap((name, k) => chances && known(chances[k]) ? [`${name} ${percent(chances[k])}`] : []).join(', ') });
  if (chances) chances.forEach((chance, k) => { if (!known(chance)) return; const part = el('span', { class: 'p' + k, title: `${FIVE[k]} ${percent(chance)}` }); part.style.width = 100 * chance + '%'; bar.append(part); });
  const ahead = !known(lead) || lead < 0.05 ? 'nobody leads' : `${{ both: 'A or B', overlap: 'A and B' }[leader] || leader} leads by ${lead.toFixed(1)} nats`;
  return el('li', {}, el('p', { class: 'note' }, `${kind}, proposed by ${proposer || 'nobody'}` + (known(gain) ? `; expected to tell ${short(gain, 2)} nats` : '')),
    pieces.length ? highlighted(spaced, levels, maximum) : el('p', { class: 'text' }, visible(text || '')),
    el('p', {}, foresaw('A', p[0]), foresaw('B', p[1]), el('span', { class: 'outcome' }, outcome), known(share) && share > 0 && share < 1 ? ` in ${percent(share)} of carriers` : '', el('span', { class: 'note' }, ' — ' + ahead)),
    chances ? bar : null, statement(speaker, said, unsupported));
}
function transcript(debate) {
  const maximum = known(place[debate.feature]) ? col.max_activation[place[debate.feature]] : null, [a, b, winner, difference, low, high] = debate.test;
  const reader = debate.predictor === 'rule' ? 'rules are executed' : `${debate.predictor.replace(/^llm:/, '')} reads both`;
  const onTest = known(a) && known(b) ? `On the split test, which the debate never saw: ${debate.metric} of A ${num(a)}, of B ${num(b)}` +
    (['both', 'overlap'].includes(debate.verdict) && known(winner) ? `, of ${SIDE[debate.verdict]} ${num(winner)}` : '') +
    (known(difference) ? `; the winner's over the better loser's ${difference > 0 ? '+' : ''}${num(difference)}${interval(low, high)}` : '') + '.' : 'On the split test: ' + NONE + '.';
  return el('div', { class: 'inside' }, el('dl', { class: 'claims' }, el('dt', { class: 'side-a' }, 'A'), el('dd', {}, visible(debate.a[0] || ''), ' ', el('span', { class: 'note' }, debate.a[1])),
    el('dt', { class: 'side-b' }, 'B'), el('dd', {}, visible(debate.b[0] || ''), ' ', el('span', { class: 'note' }, debate.b[1]))),
    el('p', { class: 'note' }, `${debate.proposed} texts proposed, ${debate.experiments} measured; predictions sealed before any was; ${reader}, taken to err on ${percent(debate.error)}. `, el('a', { href: '#f' + debate.feature }, 'Feature ' + debate.name)),
    debate.same.length ? el('p', { class: 'note' }, 'On these texts ' + debate.same.join('; ') + '.') : null,
    el('ul', { class: 'hypotheses note' }, el('li', {}, 'chances after each text:'), ...FIVE.flatMap((name, k) => debate.alive[k] ? [el('li', {}, el('span', { class: 'swatch p' + k }), name)] : [])),
    el('ol', { class: 'turns' }, ...debate.turns.map(turn => shown(turn, maximum))),
    el('div', { class: 'verdict' }, visible(debate.sentence || ''), known(debate.reason) ? el('p', { class: 'note' }, visible(debate.reason)) : null, el('p', { class: 'note' }, onTest),
      debate.reversal ? el('p', { class: 'wrong' }, 'REVERSAL: the loser predicts the corpus better than the winner of the experiments.') : null));
}
function debateRow(k) {
  const debate = debates()[k], button = el('button', { type: 'button', 'aria-expanded': 'false' }, 'Feature ' + debate.name);
  const head = el('header', {}, el('h3', {}, button), el('p', { class: 'label' }, el('span', { class: 'side-a' }, visible(debate.a[0] || '')), el('span', { class: 'note' }, ' against '), el('span', { class: 'side-b' }, visible(debate.b[0] || ''))),
    el('span', { class: 'badges' }, el('span', { class: 'badge' }, debate.verdict ? SIDE[debate.verdict] || debate.verdict : 'undecided'), el('span', { class: 'badge' }, `${debate.experiments} texts`), debate.reversal ? el('span', { class: 'badge failed' }, 'reversal') : null));
  const node = el('article', { class: 'card', id: 'd' + k, tabindex: '-1' }, head);
  const show = open => {
    if (open === node.classList.contains('open')) return;
    node.classList.toggle('open', open); button.setAttribute('aria-expanded', String(open));
    if (open) node.append(transcript(debate)); else node.lastChild.remove();
  };
  head.addEventListener('click', () => { if (!String(getSelection())) show(!node.classList.contains('open')); });
  node.addEventListener('open', () => show(true));
  return node;
}
let listed = 0;
function listDebates(upTo) {
  for (; listed < Math.min(upTo, debates().length); listed++) $('debate-list').append(debateRow(listed));
  $('more-debates').hidden = listed >= debates().length;
}
function openDebate(k) {
  if (!debates()[k]) return;
  listDebates(Math.max(k + 1, listed));
  const target = $('d' + k);
  target.dispatchEvent(new Event('open'));
  target.scrollIntoView(); target.focus({ preventScroll: true });
}

form.search.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(update, 120); });
for (const field of form.querySelectorAll('input[type=number]')) field.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(update, 250); });
form.addEventListener('change', event => { if (event.target.matches('select, [type=checkbox]')) update(); });
$('clear').addEventListener('click', () => { form.reset(); update(); });
form.addEventListener('submit', event => { event.preventDefault(); update(); });
for (const pager of document.querySelectorAll('.pager')) {
  const [back, field, next] = pager.querySelectorAll('button, input');
  back.addEventListener('click', () => turn(first / PER_PAGE));
  next.addEventListener('click', () => turn(first / PER_PAGE + 2));
  field.addEventListener('change', () => turn(Number(field.value)));
}
if ($('debate-list')) {
  listDebates(10);
  $('more-debates').addEventListener('click', () => listDebates(listed + 50));
}
document.addEventListener('click', event => { const link = event.target.closest('a'); if (link && link.hash && link.hash === location.hash) jump(); });
addEventListener('hashchange', jump);
form.hidden = false;
update();
jump();
