"""Formulas that a narrow page can break."""
import re

SHORT = 12                                   # characters that stay together
RELATIONS = set('=<>≤≥≈≠∈∼→←⇒⇔∝≪≫≡,;:') | {'&lt;', '&gt;'}


def parts(inner):
    "Elements of a row, the outermost ones"
    depth, start = 0, 0
    for tag in re.finditer(r'<(/?)\w+[^>]*?(/?)>', inner):
        if tag[1]: depth -= 1
        elif not tag[2]: depth += 1
        if depth == 0:
            yield inner[start:tag.end()]
            start = tag.end()


def width(element): return len(re.sub(r'<[^>]*>', '', element))


def breakable(math):
    "An inline formula as several, where a line may end: after a relation or a comma that stands in no bracket"
    inner = math.removeprefix('<math>').removesuffix('</math>')
    rows, row, bracket = [], '', 0
    for element in parts(inner):
        row += element
        sign = re.sub(r'<[^>]*>', '', element) if element.startswith('<mo') else ''
        if 'form="prefix"' in element or sign in '([{' and sign: bracket += 1
        elif 'form="postfix"' in element or sign in ')]}' and sign: bracket -= 1
        if sign in RELATIONS and bracket <= 0 and width(row) >= SHORT:
            rows.append(row)
            row = ''
    rows.append(row)
    if width(rows[-1]) < SHORT and len(rows) > 1: rows[-2:] = [rows[-2] + rows[-1]]
    return '<wbr>'.join(f'<math>{row}</math>' for row in rows)
