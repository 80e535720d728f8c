"""Inline formulas that a narrow page can break into lines, which browsers do not do by themselves."""
import re

SHORT, LONG = 8, 12                         # characters that stay together before a relation, before a sum
RELATIONS = set('=<>≤≥≈≠∈∼→←⇒⇔∝≪≫≡,;:') | {'&lt;', '&gt;'}
SUMS = {',', ';', '+', '−'}


def text(element): return re.sub(r'<[^>]*>', '', element)


def parts(row):
    "The outermost elements of a row; a text in as many as it has words"
    depth, start = 0, 0
    for tag in re.finditer(r'<(/?)\w+[^>]*?(/?)>', row):
        if tag[1]: depth -= 1
        elif not tag[2]: depth += 1
        if depth: continue
        element = row[start:tag.end()]
        start = tag.end()
        words = re.split('(?<=\xa0)', text(element))
        if element.startswith('<mtext') and len(words) > 1: yield from (f'<mtext>{word}</mtext>' for word in words if word)
        else: yield element


def turn(element):
    "1 for an opening bracket, -1 for a closing one"
    if not element.startswith('<mo'): return 0
    if 'form="prefix"' in element or text(element) in '([{': return 1
    return -1 if 'form="postfix"' in element or text(element) in ')]}' else 0


def may_end(row, element, inside):
    "Whether a line may end behind an element, with `inside` characters since the outermost bracket was opened"
    sign = text(element) if element.startswith('<mo') else ''
    word = element.startswith('<mtext') and element.endswith('\xa0</mtext>')
    if not inside and (word or sign in RELATIONS): return len(text(row)) >= SHORT
    return sign in SUMS and len(text(row)) >= LONG and (inside == 0 or inside >= SHORT)


def breakable(math):
    "An inline formula as several: a line may end after relations, words and sums, in brackets only if they are long"
    rows, row, depth, inside = [], '', 0, 0
    for element in parts(math.removeprefix('<math>').removesuffix('</math>')):
        row += element
        depth = max(depth + turn(element), 0)
        inside = inside + len(text(element)) if depth else 0
        if may_end(row, element, inside):
            rows.append(row)
            row = ''
    rows.append(row)
    if len(rows) > 1 and len(text(row)) < SHORT: rows[-2:] = [rows[-2] + rows[-1]]
    return '<wbr>'.join(f'<math>{row}</math>' for row in rows)
