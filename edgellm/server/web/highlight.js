// Colours for code: comments, strings, numbers and words of a language. Enough to read by; no parser.

const MAX_CODE = 50000;
const C_COMMENTS = String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`;
const HASH_COMMENTS = String.raw`#[^\n]*`;
const STRINGS = String.raw`"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
const words = (text) => text.split(" ");
const C_WORDS = words(
  "auto bool break case catch char class const constexpr continue default delete do double else enum explicit extern false " +
    "final float for friend goto if inline int long namespace new nullptr operator override private protected public register " +
    "return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using " +
    "virtual void volatile while string var foreach is in out ref interface abstract extends implements import package " +
    "boolean byte null super instanceof throws synchronized NULL",
);
const LANGUAGES = {
  python: {
    comment: HASH_COMMENTS,
    string: String.raw`[rbfRBF]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|${STRINGS})`,
    words: words(
      "and as assert async await break case class continue def del elif else except False finally for from global if import in " +
        "is lambda match None nonlocal not or pass raise return True try while with yield self",
    ),
  },
  javascript: {
    comment: C_COMMENTS,
    string: "`(?:\\\\.|[^`\\\\])*`?|" + STRINGS,
    words: words(
      "as async await break case catch class const continue debugger default delete do else enum export extends false finally " +
        "for from function get if implements import in instanceof interface let new null of private protected public readonly " +
        "return set static super switch this throw true try type typeof undefined var void while yield string number boolean any",
    ),
  },
  c: { comment: `${C_COMMENTS}|#\\s*\\w+`, string: STRINGS, words: C_WORDS },
  rust: {
    comment: C_COMMENTS,
    string: String.raw`"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\\n])'`,
    words: words(
      "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub " +
        "ref return self Self static struct super trait true type unsafe use where while bool char f32 f64 i32 i64 u8 u32 u64 " +
        "usize str String Vec Option Some None Result Ok Err",
    ),
  },
  go: {
    comment: C_COMMENTS,
    string: "`[^`]*`?|" + STRINGS,
    words: words(
      "break case chan const continue default defer else fallthrough for func go goto if import interface map package range " +
        "return select struct switch type var nil true false string int int64 float64 bool byte rune error",
    ),
  },
  shell: {
    comment: String.raw`^#[^\n]*|\s#[^\n]*`,
    string: String.raw`"(?:\\.|[^"\\])*"?|'[^']*'?`,
    words: words(
      "if then else elif fi for in do done while until case esac function return export local sudo cd echo exit set source",
    ),
  },
  sql: {
    comment: String.raw`--[^\n]*|\/\*[^]*?(?:\*\/|$)`,
    string: String.raw`'(?:''|[^'])*'?`,
    folds: true,
    words: words(
      "select from where and or not null is in like between join left right inner outer on group by order having limit offset " +
        "insert into values update set delete create table drop alter add primary key foreign references index distinct as " +
        "union all case when then else end count sum avg min max asc desc exists default unique",
    ),
  },
  json: { comment: "", string: STRINGS, words: words("true false null") },
  yaml: { comment: HASH_COMMENTS, string: STRINGS, words: words("true false null yes no on off") },
  html: { comment: "<!--[^]*?(?:-->|$)", string: STRINGS, words: [], tags: true },
  css: { comment: String.raw`\/\*[^]*?(?:\*\/|$)`, string: STRINGS, words: words("important media import supports keyframes") },
};
const ALIASES = {
  py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript",
  typescript: "javascript", node: "javascript", "c++": "c", cpp: "c", cc: "c", h: "c", cs: "c", csharp: "c", java: "c",
  kotlin: "c", swift: "c", php: "c", rs: "rust", golang: "go", sh: "shell", bash: "shell", zsh: "shell", console: "shell",
  dockerfile: "shell", toml: "yaml", ini: "yaml", yml: "yaml", xml: "html", svg: "html", scss: "css", jsonc: "json",
  ruby: "python", rb: "python", r: "python",
};

const made = new Map();

function language(name) {
  const key = ALIASES[name] ?? name;
  if (!made.has(key) && Object.hasOwn(LANGUAGES, key)) {
    const { comment, string, tags, folds } = LANGUAGES[key];
    const parts = [];
    if (comment) parts.push(`(?<comment>${comment})`);
    parts.push(`(?<string>${string})`);
    if (tags) parts.push(String.raw`(?<word><\/?[A-Za-z][\w-]*|\/?>)`);
    else parts.push(String.raw`(?<number>\b(?:0[xX][\da-fA-F]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b)`, String.raw`(?<word>[A-Za-z_]\w*)`);
    made.set(key, { pattern: new RegExp(parts.join("|"), "g"), words: new Set(LANGUAGES[key].words), tags, folds });
  }
  return made.get(key);
}

function coloured(kind, text) {
  const node = document.createElement("span");
  node.className = `c-${kind}`;
  node.append(text);
  return node;
}

/** The nodes of a code's text. */
export function highlight(code, name) {
  const known = code.length > MAX_CODE ? null : language(name.toLowerCase());
  if (!known) return [code];
  const nodes = [];
  let plain = "";
  let end = 0;
  for (const match of code.matchAll(known.pattern)) {
    const [text] = match;
    const { comment, string, number, word } = match.groups;
    let kind = comment ? "comment" : string ? "string" : number ? "number" : "";
    if (word && (known.tags || known.words.has(known.folds ? word.toLowerCase() : word))) kind = "word";
    plain += code.slice(end, match.index);
    end = match.index + text.length;
    if (!kind) plain += text;
    else {
      if (plain) nodes.push(plain);
      plain = "";
      nodes.push(coloured(kind, text));
    }
  }
  plain += code.slice(end);
  if (plain) nodes.push(plain);
  return nodes;
}
