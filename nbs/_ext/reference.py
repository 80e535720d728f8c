"""Reference pages of the package: each public name with its signature, its docstring and its docments."""
import inspect
import re
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

from fastcore.docments import docments

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'coulomb_gan'
WIDE = 72                                    # characters of a value that is shown
STARS = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}


def modules(chapter):
    "Names of the modules of a chapter, in the order of its pages; each with its page"
    folder, places = (PACKAGE, 'nbs/tools/*.ipynb') if chapter == 'tools' else (PACKAGE / chapter, f'nbs/?_{chapter}/*.ipynb')
    order = {p.relative_to(ROOT / 'nbs').as_posix(): i for i, p in enumerate(sorted(ROOT.glob(places)))}
    found = {}
    for path in folder.glob('*.py'):
        made_from = re.search(r'File to edit: (?:\.\./)+nbs/(\S+\.ipynb)', path.read_text(encoding='utf-8'))
        if made_from: found[path.stem] = made_from[1]
    prefix = 'coulomb_gan' if chapter == 'tools' else f'coulomb_gan.{chapter}'
    return [(f'{prefix}.{name}', page) for name, page in sorted(found.items(), key=lambda item: order[item[1]])]


def cell(text):
    "A text in a cell of a table"
    return ' '.join(str(text).split()).replace('|', '\\|')


def code(text):
    "Code in a cell of a table"
    return f'`{cell(text)}`' if text else ''


def type_name(annotation):
    "A type as it is written"
    if annotation in (inspect.Parameter.empty, None): return ''
    name = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r'\b(torch|pathlib|collections\.abc|typing|coulomb_gan(\.\w+)*|numpy|fractions)\.(?=\w)', '', name)


def shown(value):
    "A value as it is written, shortened"
    if callable(value) and hasattr(value, '__name__'): return value.__name__
    text = re.sub(r' at 0x[0-9a-f]+', '', ' '.join(repr(value).split()))
    text = text.replace(str(ROOT), '')
    return text if len(text) <= WIDE else text[:WIDE - 2] + ' …'


def meaning(thing, name, note):
    "The docment of a parameter; fastcore reads none of `*args` and `**kwargs`"
    if note.docment or name == 'return' or note.kind not in STARS: return cell(note.docment or '')
    beside = re.search(rf'\*{name}\b[^#\n]*# *(.+)', inspect.getsource(thing))
    return cell(beside[1]) if beside else ''


def rows(thing):
    "Parameters of a function, or fields of a record: name, meaning, type, default"
    for name, note in docments(thing, full=True, returns=True).items():
        type_ = type_name(note.anno)
        if name in ('self', 'cls') or (name == 'return' and not note.docment and not type_): continue
        label = '*returns*' if name == 'return' else f'`{STARS.get(note.kind, "")}{name}`'
        default = '' if note.default is inspect.Parameter.empty else shown(note.default)
        yield label, meaning(thing, name, note), code(type_), code(default)


def table(thing):
    "The rows; without a column of defaults where there are none"
    found = list(rows(thing))
    if not found: return ''
    titles = ['', 'meaning', 'type', 'default']
    if not any(row[3] for row in found): titles.pop()
    lines = [titles, ['---'] * len(titles), *(row[:len(titles)] for row in found)]
    return '\n'.join(f"| {' | '.join(line)} |" for line in lines)


def docstring(thing):
    text = inspect.getdoc(thing) or ''
    return '' if text.startswith(f'{getattr(thing, "__name__", "")}(') else text


def signature(thing):
    "Names and defaults; types stand in the table"
    try: found = inspect.signature(thing)
    except (TypeError, ValueError): return '()'
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values() if p.name != 'self']
    bare = [p if p.default is p.empty else p.replace(default=Written(shown(p.default))) for p in bare]
    return str(inspect.Signature(bare))


class Written:
    "A default that is shown as written"
    def __init__(self, text): self.text = text
    def __repr__(self): return self.text


def directive(kind, name, body, options=(), fence='`' * 4):
    return '\n'.join([f'{fence}{{py:{kind}}} {name}', *options, '', body, '', fence, ''])


def methods(cls):
    "Public methods of a class that are its own and carry a docstring"
    for name, thing in vars(cls).items():
        if name.startswith('_'): continue
        if inspect.isfunction(thing) and thing.__doc__: yield name, thing


def described(module, name):
    "One public name, as Markdown"
    thing = getattr(module, name)
    thing = getattr(thing, 'callback', thing)      # of a command line
    options = [f':module: {module.__name__}']
    if inspect.isclass(thing):
        own = [directive('method', n + signature(f), '\n\n'.join([docstring(f), table(f)])) for n, f in methods(thing)]
        parameters = table(thing) if is_dataclass(thing) or '__init__' in vars(thing) else ''
        return directive('class', name + signature(thing), '\n\n'.join([docstring(thing), parameters, *own]), options, '`' * 6)
    if callable(thing):
        return directive('function', name + signature(thing), '\n\n'.join([docstring(thing), table(thing)]), options, '`' * 6)
    return directive('data', name, f'`{cell(shown(thing)).replace("`", "")}`', options, '`' * 6)


def chapter(name):
    "The reference of a chapter, as Markdown"
    if name == 'coulomb_gan': return door()
    parts = []
    for full, page in modules(name):
        module = import_module(full)
        subtitle = ' '.join((module.__doc__ or '').split())
        parts.append(f'## {full.removeprefix("coulomb_gan.")}\n\n{subtitle} [Page](../{page})\n')
        parts += [described(module, public) for public in module.__all__]
    return '\n\n'.join(parts)


def door():
    "What `from coulomb_gan import ...` offers, and where each name lives"
    package = import_module('coulomb_gan')
    lines = []
    for name in package.__all__:
        home = f'coulomb_gan.{package._HOMES[name]}'
        first = docstring(getattr(package, name)).partition('\n')[0] if callable(getattr(package, name)) else 'The presets by name.'
        lines.append(f'* {{py:obj}}`{name} <{home}.{name}>`: {first}')
    return '\n'.join(lines)
