"""Texts that the corpus recipe makes itself: worked arithmetic and short dialogues.

Both yield title and text without end; the caller takes as much as it wants. The same generator
state gives the same texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random


def _sum_in_columns(rng: Random) -> tuple[str, str]:
    numbers = [rng.randrange(10, 10 ** rng.randrange(2, 6)) for _ in range(rng.randrange(2, 6))]
    out = [f"Add {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}.", ""]
    total = numbers[0]
    for number in numbers[1:]:
        out.append(f"    {total} + {number} = {total + number}")
        total += number
    return "A sum", "\n".join([*out, "", f"The sum is {total}."])


def _product(rng: Random) -> tuple[str, str]:
    a, b = rng.randrange(12, 999), rng.randrange(12, 99)
    tens, ones = b // 10 * 10, b % 10
    lines = [
        f"Multiply {a} by {b}.",
        f"Split the second factor: {b} = {tens} + {ones}. Then",
        "",
        f"    {a} * {tens} = {a * tens}",
        f"    {a} * {ones} = {a * ones}",
        f"    {a * tens} + {a * ones} = {a * b}.",
        "",
        f"So {a} * {b} = {a * b}.",
    ]
    return f"The product of {a} and {b}", "\n".join(lines)


def _euclid(rng: Random) -> tuple[str, str]:
    a, b = sorted((rng.randrange(20, 3000), rng.randrange(20, 3000)), reverse=True)
    out = [f"Find the greatest common divisor of {a} and {b} by Euclid's algorithm.", ""]
    x, y = a, b
    while y:
        out.append(f"    {x} = {x // y} * {y} + {x % y}")
        x, y = y, x % y
    out += ["", f"The last remainder that is not zero is {x}, so gcd({a}, {b}) = {x}."]
    if x == 1:
        out.append("The two numbers are coprime.")
    else:
        out.append(f"Their least common multiple is {a} * {b} / {x} = {a * b // x}.")
    return "Euclid's algorithm", "\n".join(out)


def _powers(rng: Random) -> tuple[str, str]:
    base, modulus = rng.randrange(2, 20), rng.choice([7, 9, 10, 11, 13, 17, 19, 23, 29, 31, 101])
    exponent = rng.randrange(10, 130)
    out = [f"What remainder does {base}^{exponent} leave on division by {modulus}?", ""]
    out.append(f"Square repeatedly modulo {modulus}:")
    out.append("")
    power, value, product = 1, base % modulus, 1
    used = []
    while power <= exponent:
        out.append(f"    {base}^{power} = {value} (mod {modulus})")
        if exponent & power:
            used.append((power, value))
            product = product * value % modulus
        power, value = power * 2, value * value % modulus
    parts = " + ".join(str(p) for p, _ in reversed(used))
    factors = " * ".join(str(v) for _, v in reversed(used))
    out += ["", f"Since {exponent} = {parts}, the answer is {factors} = {product} (mod {modulus})."]
    return "A remainder", "\n".join(out)


def _quadratic(rng: Random) -> tuple[str, str]:
    p, q = rng.randrange(-12, 13), rng.randrange(-12, 13)
    b, c = -(p + q), p * q
    middle = f" {'+' if b >= 0 else '-'} {abs(b)}x" if b else ""
    end = f" {'+' if c >= 0 else '-'} {abs(c)}" if c else ""
    d = b * b - 4 * c
    lines = [
        f"Solve the equation x^2{middle}{end} = 0.",
        f"The discriminant is b^2 - 4ac = {b * b} - {4 * c} = {d}, whose root is {math.isqrt(d)}.",
        f"Hence x = ({-b} + {math.isqrt(d)}) / 2 = {(-b + math.isqrt(d)) // 2} or "
        f"x = ({-b} - {math.isqrt(d)}) / 2 = {(-b - math.isqrt(d)) // 2}.",
        f"Check: the sum of the roots is {p + q} = -b and their product is {p * q} = c.",
    ]
    return "A quadratic equation", "\n".join(lines)


def _progression(rng: Random) -> tuple[str, str]:
    first, step, count = rng.randrange(1, 40), rng.randrange(2, 15), rng.randrange(5, 60)
    last = first + (count - 1) * step
    terms = ", ".join(str(first + i * step) for i in range(4))
    lines = [
        f"Find the sum of the first {count} terms of the arithmetic progression {terms}, ...",
        f"The common difference is {step}, so the last term is "
        f"{first} + {count - 1} * {step} = {last}.",
        f"The sum is the number of terms times the mean of the first and the last: "
        f"{count} * ({first} + {last}) / 2 = {count * (first + last) // 2}.",
    ]
    return "An arithmetic progression", "\n\n".join(lines)


def _factors(rng: Random) -> tuple[str, str]:
    number = rng.randrange(60, 5000)
    out, rest, factors, divisor = [f"Factor {number} into primes.", ""], number, [], 2
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            out.append(f"    {rest} / {divisor} = {rest // divisor}")
            factors.append(divisor)
            rest //= divisor
        divisor += 1
    if rest > 1:
        factors.append(rest)
    if len(factors) == 1:
        out.append(f"No prime up to {math.isqrt(number)} divides {number}, so it is prime.")
    else:
        out += ["", f"Therefore {number} = {' * '.join(map(str, factors))}."]
        count = math.prod(factors.count(f) + 1 for f in set(factors))
        out.append(f"It has {count} divisors.")
    return f"The factors of {number}", "\n".join(out)


def _fractions(rng: Random) -> tuple[str, str]:
    a, b, c, d = (rng.randrange(1, 13) for _ in range(4))
    b, d = b + 1, d + 1
    numerator, denominator = a * d + c * b, b * d
    g = math.gcd(numerator, denominator)
    lines = [
        f"Add the fractions {a}/{b} and {c}/{d}.",
        f"A common denominator is {b} * {d} = {denominator}. Then {a}/{b} = {a * d}/{denominator} "
        f"and {c}/{d} = {c * b}/{denominator}, and the sum is {numerator}/{denominator}.",
        f"Dividing both by {g} gives {numerator // g}/{denominator // g}."
        if g > 1
        else "The fraction is already in lowest terms.",
    ]
    return "A sum of fractions", "\n".join(lines)


NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Irene Jack Karen Liam Maria Noah Olga Peter Rosa "
    "Samuel Tessa Victor Wendy Adam Bella Chris Diana Eric Fiona George Hannah Ivan Julia Kevin "
    "Laura Martin Nina Oscar Paula Robert Sarah Tom Priya Kofi Mei Yusuf Ingrid Pablo"
).split()
GOODS = (
    "apples pears eggs lemons candles notebooks pencils bricks tickets stamps oranges buttons "
    "bottles cups plates chairs lamps bolts batteries roses loaves jars ropes tiles"
).split()


def _story(rng: Random) -> tuple[str, str]:
    name, other = rng.sample(NAMES, 2)
    goods = rng.choice(GOODS)
    count, price, paid = rng.randrange(3, 30), rng.randrange(2, 15), rng.choice([50, 100, 200, 500])
    cost = count * price
    given = rng.randrange(1, count)
    out = [
        f"{name} buys {count} {goods} at {price} dollars each and gives {given} of them to "
        f"{other}. How much did the {goods} cost, and how many does {name} keep?",
        f"The cost is {count} * {price} = {cost} dollars. {name} keeps {count} - {given} = "
        f"{count - given} {goods}.",
    ]
    if paid > cost:
        out.append(f"From {paid} dollars the change is {paid} - {cost} = {paid - cost} dollars.")
    return "A word problem", "\n\n".join(out)


def _journey(rng: Random) -> tuple[str, str]:
    speed, hours = rng.randrange(20, 130), rng.randrange(2, 9)
    faster = speed + rng.randrange(5, 40)
    distance = speed * hours
    lines = [
        f"A {rng.choice(['train', 'car', 'lorry', 'coach', 'cyclist', 'ship'])} travels for "
        f"{hours} hours at {speed} kilometres an hour. How far does it go, and how long would the "
        f"same journey take at {faster} kilometres an hour?",
        f"Distance is speed times time: {speed} * {hours} = {distance} kilometres.",
        f"At {faster} kilometres an hour it takes {distance} / {faster} = "
        f"{distance / faster:.2f} hours.",
    ]
    return "A journey", "\n\n".join(lines)


def _probability(rng: Random) -> tuple[str, str]:
    red, blue = rng.randrange(2, 12), rng.randrange(2, 12)
    total = red + blue
    both, pairs = red * (red - 1), total * (total - 1)
    g = math.gcd(both, pairs)
    lines = [
        f"An urn holds {red} red and {blue} blue balls. Two are drawn without replacement. What "
        f"is the probability that both are red?",
        f"The first ball is red with probability {red}/{total}. Given that, {red - 1} of the "
        f"remaining {total - 1} balls are red. The product is "
        f"{red}/{total} * {red - 1}/{total - 1} = {both}/{pairs} = {both // g}/{pairs // g}, "
        f"about {both / pairs:.3f}.",
    ]
    return "Drawing without replacement", "\n\n".join(lines)


def _derivative(rng: Random) -> tuple[str, str]:
    terms = sorted({(rng.randrange(1, 7), rng.randrange(1, 10)) for _ in range(3)}, reverse=True)
    function = " + ".join(f"{c}x^{n}" if n > 1 else f"{c}x" for n, c in terms)
    derived = " + ".join(
        f"{c * n}x^{n - 1}" if n > 2 else f"{c * n}x" if n == 2 else str(c) for n, c in terms
    )
    at = rng.randrange(1, 5)
    value = sum(c * n * at ** (n - 1) for n, c in terms)
    lines = [
        f"Differentiate f(x) = {function} and find the slope at x = {at}.",
        f"By the power rule f'(x) = {derived}. At x = {at} this is {value}, so the tangent there "
        f"has the slope {value}.",
    ]
    return "A derivative", "\n\n".join(lines)


PROBLEMS: tuple[Callable[[Random], tuple[str, str]], ...] = (
    _sum_in_columns, _product, _euclid, _powers, _quadratic, _progression, _factors, _fractions,
    _story, _journey, _probability, _derivative,
)  # fmt: skip


def arithmetic(rng: Random) -> Iterator[tuple[str, str]]:
    """Worked problems, one to five a document."""
    while True:
        problems = [rng.choice(PROBLEMS)(rng) for _ in range(rng.randrange(1, 6))]
        first, *rest = problems
        yield first[0], "\n\n".join([first[1], *(f" = {t} = \n\n{p}" for t, p in rest)])


PLACES = (
    "the station|the library|the market|the harbour|the old bridge|the town hall|the museum|"
    "the post office|the bakery|the hospital|the theatre|the airport|the swimming pool"
).split("|")
THINGS = (
    "a room for two nights|a table for four|a ticket to the coast|a pair of boots|a second-hand "
    "bicycle|a birthday cake|a replacement key|a bag of flour|a new washing machine|a winter coat|"
    "an appointment with the dentist|a copy of the contract|a refund for this kettle"
).split("|")
ANSWERS = (
    "I'm afraid we've none left, but there should be more on {day}.|Certainly. That comes to "
    "{n} pounds altogether.|Of course. Could you tell me your name, please?|Let me look. Yes, we "
    "can do that for {n} pounds.|Oh dear. Have you tried asking at {place}?|You're in luck, the "
    "last one came in this morning.|Not before {day}, I'm sorry to say."
).split("|")
REPLIES = (
    "That's more than I hoped to spend. Is there anything cheaper?|Wonderful, thank you so much.|"
    "Can I pay by card?|And how long will it take?|No, that's far too late for me.|All right, put "
    "it down under {name}, please.|Really? My sister paid half of that last year.|Could you write "
    "that down for me?|Well, I suppose I shall have to wait until {day}."
).split("|")
CLOSINGS = (
    "You're very welcome. Mind the step on your way out.|See you on {day}, then.|I'll ring you as "
    "soon as it's ready.|Thank you, and have a lovely afternoon.|Don't worry, it happens to "
    "everyone.|Give my regards to {name}.|Goodbye, and do come again."
).split("|")
OPENINGS = (
    "Good morning. I'd like {thing}, if it isn't too much trouble.|Excuse me, is this the right "
    "way to {place}?|Hello, it's {name}. I rang yesterday about {thing}.|Sorry to bother you, but "
    "I've lost my umbrella somewhere near {place}.|Hi, do you know when the next bus to {place} "
    "leaves?|I was told to ask for {name}. It's about {thing}."
).split("|")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday".split()


def dialogue(rng: Random) -> Iterator[tuple[str, str]]:
    """Short conversations between two people."""
    while True:
        one, two, third = rng.sample(NAMES, 3)

        def fill(choices: list[str], name: str = third) -> str:
            return rng.choice(choices).format(
                name=name,
                place=rng.choice(PLACES),
                thing=rng.choice(THINGS),
                day=rng.choice(DAYS),
                n=rng.randrange(3, 180),
            )

        lines = [f"{one}: {fill(OPENINGS)}"]
        for _ in range(rng.randrange(1, 5)):
            lines += [f"{two}: {fill(ANSWERS)}", f"{one}: {fill(REPLIES)}"]
        lines.append(f"{two}: {fill(CLOSINGS)}")
        yield f"{one} and {two}", "\n".join(lines)
