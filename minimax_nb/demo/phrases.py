"""How people put their questions: the phrasings of the corpus, one a line, the last two of every list held out.

{x} is a dish or word, {a} an allergen, {v} what a user stated, {i} an item. [one|other] is drawn anew each time. The
held-out phrasings never occur in training, but their words do: a model trained from nothing knows no others.
"""

# ruff: noqa: E501

import random
import re


def split(text: str) -> tuple[list[str], list[str]]:
    """A list of phrasings (by line or by semicolon) as (for training, held out)."""
    parts = [part.strip() for part in re.split(r"[;\n]", text.strip())]
    return parts[:-2], parts[-2:]


def draw(rng: random.Random, phrasing: str) -> str:
    """A phrasing with one option drawn for each [...|...]."""
    return re.sub(r"\[([^]]*)\]", lambda found: rng.choice(found[1].split("|")), phrasing)


# kind of question about a dish: first by name, then as a follow-up that leaves the dish unsaid
DISH = {
    "recipe": (
        """How [do|can|should|would] I [make|prepare|cook] {x}?
        How [do you|does one|do people] [make|prepare] {x}?
        Do you [have|know] [a|any|a good] recipe for {x}?
        Do you have {x} recipes?
        [Any|Got any|Some] {x} recipes?
        [Give|Show|Tell|Get] me [a|the|your] recipe for {x}.
        I [want|would like|need|would love] to [make|cook|prepare] {x}[| tonight| today].
        What [goes into|is in|belongs in] {x}?
        [Can|Could|Would] you [tell|show|teach] me how to [make|prepare] {x}?
        I [need|want|would like|am looking for] [a|your|a good] recipe for {x}.
        How is {x} [made|prepared|cooked]?
        What do I need [for|to make|to prepare] {x}?
        [Show|Tell|Teach] me how to [make|prepare|cook] {x}.
        What are the ingredients [of|for] {x}?
        [Walk me through|Explain|Describe] {x}[| to me step by step].
        I [fancy|feel like] [some|] {x}, [how is it made|how do I make it|what do I need]?
        {x}, please.
        [Share|Got] [a|your] {x} recipe[| with me].
        I would like to cook {x}. How?
        Is {x} hard to make?
        [Have you got|Got] [a|a good] recipe for {x}[| for me]?
        What is [your|the best|a good] way [of making|to make|to prepare] {x}?
        I feel like some {x}, how is it prepared?
        Could you share your recipe for {x} with me?""",
        """What [was|is] the recipe [again|once more]?
        [Can|Could] you [repeat|say|tell me] the recipe[| again]?
        Tell me the recipe [again|once more|one more time].
        How [do|can|would] I [make|prepare] it?
        How is it [made|prepared][| again|, once more]?
        What goes into it?
        [Say|Give me|Repeat] [the|that] recipe [once more|again|one more time].
        What do I need for it?
        Once more, how do I make it?
        What are the ingredients[| again| of it]?
        I forgot the recipe.
        Remind me [how to make it|of the recipe].
        Explain [once more|again] how to make it.
        And the recipe?
        Could you say the recipe one more time?
        How do I prepare it again?""",
    ),
    "keeps": (
        """How long does {x} [keep|last|stay good|stay fresh]?
        How [long|many days] [can|may|should] I [keep|store] {x}?
        How [do|should|can] I [store|keep] {x}?
        [For how many|How many] days [does|will|can|may] {x} [keep|last|be stored|be kept]?
        [Can|May] I [store|keep] {x}?
        For how long is {x} [good|fresh|safe]?
        When does {x} go [off|bad]?
        Does {x} [keep well|spoil fast|keep long]?
        Will {x} [last|stay fresh|keep] [for long|long]?
        How [quickly|soon|fast] does {x} [spoil|go bad|go off]?
        Until when [can|may|should] I eat {x}?
        I made [too much|a lot of] {x}, how long [can I keep it|does it keep]?
        What is the [shelf life|storage time] of {x}?
        How soon must {x} be eaten?
        Tell me how long {x} [lasts|keeps].
        After how many days is {x} bad?
        After making {x}, how long [do I have to eat it|can I keep it]?
        How many days is {x} good?
        Tell me for how many days I may keep {x}.""",
        """How long does it [keep|last|stay good|stay fresh]?
        How [long|many days] [can|may|should] I [keep|store] it?
        How [do|should|can] I [store|keep] it?
        [For how many|How many] days [does|will|can|may] it [keep|last|be stored|be kept]?
        [Can|May] I [store|keep] it?
        For how long is it [good|fresh|safe]?
        When does it go [off|bad]?
        Does it [keep well|spoil fast|keep long]?
        Will it [last|stay fresh|keep] [for long|long]?
        How [quickly|soon|fast] does it [spoil|go bad|go off]?
        Until when [can|may|should] I eat it?
        And [how long does it keep|the shelf life|the storage]?
        How soon must it be eaten?
        After how many days is it bad?
        Tell me how long it [lasts|keeps].
        How long do I have to eat it?
        How many days is it good?
        Tell me for how many days I may keep it.""",
    ),
    "with": (
        """What goes [well|best|] with {x}?
        What [do|can|should|could|would] I [eat|serve|have] with {x}?
        What is {x} [good|nice|eaten|served] with?
        What does {x} [go|taste good] with?
        What [fits|pairs with|tastes good with|is nice with] {x}?
        What do people [eat|serve] with {x}?
        [Which|What] [food|dish] [suits|fits|goes with|needs] {x}?
        With what [do|should|can] I [serve|eat] {x}?
        [Suggest|Recommend|Name] [something|a dish] [to eat with|for|to serve with] {x}.
        I have {x}. What [should|can|do] I eat with it?
        What would you [eat|serve] with {x}?
        What can I eat {x} with?
        What is {x} for?
        [Which|What] dish would {x} suit?
        What is [nice|good|best] to eat with {x}?
        With {x}, what [do|should] I eat?
        Which dish goes well with {x}?
        What would be nice to serve with {x}?""",
        """What goes [well|best|] with it?
        What [do|can|should|could|would] I [eat|serve|have] with it?
        What is it [good|nice|eaten|served] with?
        What does it [go|taste good] with?
        What [fits|pairs with|tastes good with|is nice with] it?
        [Which|What] [food|dish] [suits|fits|goes with|needs] it?
        With what [do|should|can] I [serve|eat] it?
        [Suggest|Recommend|Name] [something|a dish] [to eat with|for|to serve with] it.
        What would you [eat|serve] with it?
        What is it for?
        And what [do|can|should] I eat with it?
        [Which|What] dish would it suit?
        What is [nice|good|best] to eat with it?
        Which dish goes well with it?
        What would be nice to serve with it?""",
    ),
    "contains": (
        """[Is|Are] there [any|] {a} in {x}?
        Does {x} [contain|have|include] [any|] {a}?
        Is {x} free of {a}?
        Does {x} have {a} in it?
        I am allergic to {a}. [Can|May] I [eat|have|try] {x}?
        [Can|May] I [eat|have|try] {x} [with an allergy to|if I avoid|if I am allergic to] {a}?
        Has {x} got [any|] {a} in it?
        I [cannot|must not|should not|do not] eat {a}. [Is {x} safe for me|Is {x} all right|May I eat {x}|Can I have {x}]?
        I [avoid|must avoid] {a}. [Can|May] I [have|eat|try] {x}?
        My guest must not eat {a}. Can I serve {x}?
        I do not tolerate {a}. Is {x} [all right|safe|fine]?
        Can [someone|people] who [avoid|avoids] {a} eat {x}?
        Is {x} made with {a}?
        Does the {x} recipe [use|need|contain] {a}?
        [Do you use|Do you put|Does one put] {a} [for|into|in] {x}?
        Would [you find|there be] {a} in {x}?
        Must I worry about {a} in {x}?
        Is {x} [fine|safe|all right] [for people who do not eat|for someone who avoids|with an allergy to] {a}?
        What about {a} in {x}, [is there any|must I worry]?
        Would {x} contain any {a}?
        Is {x} safe if I must not eat {a}?""",
        """[Is|Are] there [any|] {a} in it?
        Does it [contain|have|include] [any|] {a}?
        Is it free of {a}?
        Does it have {a} in it?
        I am allergic to {a}. [Can|May] I [eat|have|try] it?
        [Can|May] I [eat|have|try] it [with an allergy to|if I avoid|if I am allergic to] {a}?
        Has it got [any|] {a} in it?
        I [cannot|must not|should not] eat {a}. [Is it safe for me|Is it all right|May I eat it|Can I have it]?
        I [avoid|must avoid] {a}. [Can|May] I [have|eat|try] it?
        My guest must not eat {a}. Can I serve it?
        I do not tolerate {a}. Is it [all right|safe|fine]?
        Can [someone|people] who [avoid|avoids] {a} eat it?
        Is it made with {a}?
        [Do you use|Do you put|Does one put] {a} [for|into|in] it?
        Would [you find|there be] {a} in it?
        Must I worry about {a} in it?
        Is it [fine|safe|all right] [for people who do not eat|for someone who avoids|with an allergy to] {a}?
        Would it contain any {a}?
        Is it safe if I must not eat {a}?""",
    ),
    "without": (
        """How [do|can|would|should] I [make|prepare] {x} [without|with no] {a}?
        [Can|Could|May] [I|you|one] [make|prepare] {x} [without|with no|and leave out] {a}?
        I [want|would like|need] {x} [without|with no|but no] {a}.
        Is there a {x} [without|with no|that needs no] {a}?
        How [can|could] {x} be made [without|with no] {a}?
        [Give me|Make|Make me] {x} [without|with no|free of] {a}.
        {x} [without|with no|but no] {a}[, please|].
        What about {x} [without|with no] {a}?
        I have no {a}. [Can I still make {x}|How do I make {x}|What about {x}]?
        How do I [replace|leave out|skip] [the|] {a} in {x}?
        [Leave|Keep] the {a} out of {x}.
        What if I [leave|keep] {a} out of {x}?
        [My friend eats|We eat|I eat] no {a}. How [do I|do we|can I] make {x}?
        We do not eat {a}[| here]. How [do|can|should] we make {x}?
        A {x} recipe [with no|without] {a}, please.
        Is {x} possible [without|with no] {a}?
        What [do I use|do I take|can I use|replaces] [for|instead of] {a} in {x}?
        How does {x} work [if I skip the|without|with no] {a}?
        What if I [skip|have no|leave out] {a} [when I make|in|for] {x}?
        I would like to make {x}, but [without|with no] {a}.
        How should one make {x} if there is no {a}?
        Could I make {x} and skip the {a}?""",
        """And [without|with no|if I have no|if I skip|what if there is no|if there is no] {a}?
        [Can|Could|May] [I|you|one] [make|prepare] it [without|with no|and leave out] {a}?
        What if I [leave out|skip|have no|leave out the|skip the] {a}?
        How [do|can|would|should] I make it [without|with no] {a}?
        [Without|With no|Now without|But without|But with no] {a}[, please|?|.]
        Is [there a way|it possible] [without|with no] {a}?
        I do not eat {a}. [What now|How do I make it|What can I do]?
        What about [leaving out|no|skipping] {a}?
        [Could|Can] it be made [without|with no] {a}?
        I have no {a}. [Can I still make it|How do I make it|What now]?
        [Make|I want|Give me] it [without|with no|free of] {a}.
        How do I [replace|leave out|skip] [the|] {a} in it?
        [Leave|Keep] the {a} out.
        No {a}, please.
        My friend eats no {a}. How do I make it?
        What [do I use|do I take|can I use] [for|instead of] {a}?
        How does it work [if I skip the|without|with no] {a}?
        How should one make it if there is no {a}?
        Could I make it and skip the {a}?""",
    ),
    "double": (
        """I [need|want|would like] twice as much {x}.
        [Double|Please double] the [recipe for|amount of|] {x}.
        What do I need for [a double portion of|twice as much|two portions of|double the] {x}?
        Give me [a double recipe for|the amounts for twice the|two portions of] {x}.
        How much do I [need|buy|take] for [twice the amount of|double the|two portions of|a double] {x}?
        A double [batch|portion] of {x}, please.
        I [want|would like|need] to [make|cook] [a double batch of|two portions of|twice as much|double the] {x}.
        What goes into [two batches of|two portions of|a double] {x}?
        How do I [double|make two portions of|make twice as much] {x}?
        I would like [two portions of|two batches of|a double|double the] {x}.
        Make {x} for [twice as many|double the] people.
        Two [batches|portions] of {x}[, please|].
        What is the double amount for {x}?
        I want [two times|double|twice] the {x}.
        [Twice|Double|Two times] the {x}[, please|].
        I need {x} for [double the people|twice as many people].
        How do I make double the amount of {x}?
        Two portions of {x} is what I need.""",
        """[Double|Please double|Now double] [it|that|the recipe|the amounts].
        Double it[, please|].
        Now twice as much.
        I [need|want|would like] [twice as much|two portions|double|a double portion].
        What about [a double portion|two portions|twice as much]?
        Make [it|that] [a double batch|twice as much|twice as big|double].
        And for twice as many people?
        Can you double [that|it|the recipe]?
        Two [portions|batches], please.
        How much [for two portions|for double|for twice as much]?
        [Twice|Two times] [that|the amount|it][, please|].
        Give me the amounts for twice as much.
        What if I make [twice as much|double|two portions]?
        And double?
        Please make that [double|twice as big|two portions].
        Can you make that two portions?
        I need double the amount.""",
    ),
    "triple": (
        """I [need|want|would like] three times as much {x}.
        [Triple|Please triple] the [recipe for|amount of|] {x}.
        What do I need for [a triple portion of|three times as much|three portions of|triple the] {x}?
        Give me [a triple recipe for|the amounts for three times the|three portions of] {x}.
        How much do I [need|buy|take] for [three times the amount of|triple the|three portions of|a triple] {x}?
        A triple [batch|portion] of {x}, please.
        I [want|would like|need] to [make|cook] [a triple batch of|three portions of|three times as much|triple the] {x}.
        What goes into [three batches of|three portions of|a triple] {x}?
        How do I [triple|make three portions of|make three times as much] {x}?
        I would like [three portions of|three batches of|a triple|triple the] {x}.
        Make {x} for [three times as many|triple the] people.
        Three [batches|portions] of {x}[, please|].
        What is the triple amount for {x}?
        I want [three times|triple] the {x}.
        [Three times|Triple] the {x}[, please|].
        I need {x} for [triple the people|three times as many people].
        How do I make triple the amount of {x}?
        Three portions of {x} is what I need.""",
        """[Triple|Please triple|Now triple] [it|that|the recipe|the amounts].
        Triple it[, please|].
        Now three times as much.
        I [need|want|would like] [three times as much|three portions|triple|a triple portion].
        What about [a triple portion|three portions|three times as much]?
        Make [it|that] [a triple batch|three times as much|three times as big|triple].
        And for three times as many people?
        Can you triple [that|it|the recipe]?
        Three [portions|batches], please.
        How much [for three portions|for triple|for three times as much]?
        Three times [that|the amount|it][, please|].
        Give me the amounts for three times as much.
        What if I make [three times as much|triple|three portions]?
        And triple?
        Please make that [triple|three times as big|three portions].
        Can you make that three portions?
        I need triple the amount.""",
    ),
}

DISH_ZH = {
    "recipe": (
        "[请问|]{x}怎么做？; 怎么[做|制作]{x}？; 我[想|要]做{x}。; [你有|有]{x}的[菜谱|配方|做法]吗？; [请|]告诉我{x}的[做法|配方]。; {x}的[做法|配方|菜谱]是什么？; [做|制作]{x}[需要|要][什么|哪些材料]？; [请|]给我{x}的[菜谱|配方]。; 你会做{x}吗？; [请|]教我[做|怎么做]{x}。; [请问|]{x}如何制作？; 能[说说|告诉我]{x}的做法吗？; 我想学做{x}。; 想吃{x}，怎么做？; {x}需要[哪些材料|什么材料]？; [说说|告诉我]{x}怎么做。; 如何[做|制作]{x}？; 麻烦[说说|告诉我]{x}的做法。; {x}是怎么[做|制作]的？; 我想知道{x}怎么做。; 请说说{x}的配方。",
        "再说一[遍|次][做法|配方|菜谱]。; [做法|配方]是什么？; [它|]怎么做？; 需要[什么|哪些材料]？; 请再说一[遍|次]。; [请|]重复一下[做法|菜谱]。; 能再说一[遍|次]做法吗？; 再讲一次怎么做。; 怎么做来着？; 再告诉我一次做法。; 材料[有哪些|是什么]？; 它是怎么做的？; 请重复菜谱。; 麻烦再说一[遍|次]。; 请再讲一次做法。; 能重复一下配方吗？",
    ),
    "keeps": (
        "{x}[能|可以]放[多久|几天]？; {x}[能|可以][保存|存][几天|多久]？; {x}怎么[保存|存放]？; {x}放多久会坏？; 怎么[存放|保存]{x}？; {x}的[保质期|保存时间][多长|是多久]？; 请问{x}能放几天？; {x}多久会坏？; {x}保存几天？; {x}可以放多长时间？; 做好的{x}能[存|放]多久？; {x}几天内吃完？; {x}最多[放|存]几天？; {x}做好以后能放多久？; 请问{x}可以保存多久？; {x}最多能放多久？",
        "[它|]能[放|存][多久|几天]？; 可以[保存|放][几天|多久]？; 怎么[保存|存放]？; 能保存多久？; 放多久会坏？; 保质期多长？; 多久会坏？; 保存几天？; 可以放多长时间？; 几天内吃完？; 那能放多久？; 最多[放|存]几天？; 做好以后能放多久？; 它可以保存多久？; 最多能放多久？",
    ),
    "with": (
        "{x}[配|搭配]什么[吃|]？; {x}[和|跟]什么[搭配|一起吃]？; {x}适合配什么？; 什么配{x}[好吃|好]？; {x}可以配什么？; {x}搭什么好？; 吃{x}配什么？; {x}最好配什么？; 请问{x}配什么？; 用{x}配什么菜？; {x}跟什么好吃？; 推荐一个配{x}的菜。; 什么菜[适合|可以配]{x}？; 有什么菜可以配{x}？; {x}配哪种菜好？; {x}配什么菜好吃？; 请推荐配{x}的菜。",
        "[它|]配什么[吃|]？; [和|跟]什么[搭配|一起吃]？; 适合配什么？; 可以配什么？; 搭什么好？; 最好配什么？; 搭配什么？; 配什么菜？; 那配什么？; 跟什么好吃？; 推荐配什么？; 它和什么一起吃？; 有什么菜可以配？; 配哪种菜好？; 配什么菜好吃？; 它适合配什么菜？",
    ),
    "without": (
        "[不放|不加|没有|不用]{a}怎么做{x}？; {x}[可以|能]不[放|加|用]{a}吗？; 我想要[不含|没有]{a}的{x}。; {x}不要{a}可以吗？; 怎么做[不含|没有]{a}的{x}？; 我不[吃|能吃]{a}，{x}怎么做？; 不用{a}能做{x}吗？; 做{x}能不[用|放]{a}吗？; 请教我做没有{a}的{x}。; 做{x}不放{a}行吗？; {x}没有{a}能做吗？; {x}里的{a}可以换成什么？; 我不能吃{a}，怎么做{x}？; {x}不加{a}怎么做？; 如果没有{a}，{x}怎么做？; 请做不放{a}的{x}。; 家里没有{a}，{x}怎么做？; 做{x}的时候不想放{a}。; 我不想放{a}，怎么做{x}？; {x}如果不用{a}怎么做？",
        "[不放|没有|不要|不用|不加]{a}呢？; [不放|没有|不要|不用|不加]{a}[可以吗|行吗|怎么做|怎么办]？; [可以|能]不[放|用|加]{a}吗？; 我不[吃|能吃]{a}。; 如果[不放|没有|不加]{a}呢？; {a}可以换成什么？; 去掉{a}呢？; 那不放{a}呢？; 不吃{a}怎么办？; 不想放{a}。; 家里没有{a}呢？; 我不想放{a}呢？; 如果不用{a}怎么做？",
    ),
    "double": (
        "做[两倍|双份|两份]的{x}[需要|要]什么？; [我要|我想要|给我]双份{x}。; {x}的量加倍。; [两份|双份]{x}[需要|要]多少？; [请|]把{x}[的菜谱|的量|]加倍。; 双份{x}怎么做？; 我想做[两份|双份]{x}。; [请|]给我[双份|两倍]{x}的用量。; {x}做两份要多少？; 两倍{x}要多少材料？; {x}加倍怎么做？; 双份{x}要什么？; 想要两份{x}。; {x}两份的用量是多少？; 两倍量的{x}。; {x}要两倍的量。; 请按两份做{x}。; 请给我两份{x}的用量。; 我要两倍的{x}。",
        "[请|]加倍。; [双份|两倍|两份]呢？; 做两份呢？; [请把|]用量加倍。; 我[要|想要]双份。; 人数加倍呢？; 两份要多少？; 双份。; 两份。; 两倍。; 那双份呢？; 双份要多少？; 两倍用量。; 我想做两份。; 要两倍的量。; 请按两份做。; 我要两倍。; 请给我双份。",
    ),
}  # fmt: skip

SUBSTITUTE = """What [can|could|do|should|may] I [use|take] [instead of|in place of|for] {x}?
I [have|am out of|ran out of|have run out of|am missing|cannot find|forgot to buy] [no|the|any|] {x}[, what now|. What now|. What do I do|].
What [replaces|can replace|could stand in for|works instead of] {x}?
[Is there|Do you know|What is] a [good|] substitute for {x}?
There is no {x} [left|in my kitchen|at the shop][, what do I do|, what now|].
My {x} is gone, what now?
How [do|can] I replace {x}?
The shop had no {x}.
Can I do without {x}?
We are out of {x}.
Suggest something [for|instead of] {x}, I have none.
Which thing [may|can] I use [in place of|instead of] {x}?
What do I use if [I have no|there is no] {x}?
I want to replace {x}.
I have no {x} left.
What is a good thing to use instead of {x}?
There is no {x} left, what can replace it?"""
GLOSSARY = """[What|What exactly] is {x}?
What does {x} mean?
[Explain|Define|Describe] {x}[| to me].
Tell me [about|what you know about|what] {x}[| is].
[Can|Could|Would] you [explain|describe|define] {x}?
What do [you|people] [know about|mean by|call] {x}?
Do you know what {x} is?
I have never heard of {x}.
How would you [explain|describe] {x}?
I read about {x}. What is it?
What is meant by {x}?
{x}: what is that?
What should I know about {x}?
Help me to understand {x}.
I do not know what {x} is.
[Say|Tell me] in [a sentence|short] what {x} is.
Could you say what {x} is?
What would you say {x} is?"""
TIMES = """How long [does it take to|do I|should I|must I|do you] {x}?
How [do|should|can] I {x}?
I [want|need|would like] to {x}[|. How long|. How long does it take]?
What is the right time to {x}?
How many minutes [to|does it take to|do I need to] {x}?
[Tell me|Explain|Show me] how to {x}.
[Can|Could] you tell me how [to|long to|I] {x}?
How much time do I need to {x}?
What time does it take to {x}?
For how long do I {x}?
When I {x}, how long does it take?
Help me to {x}.
What [do I have to do|is the best way] to {x}?
[Please tell me|Tell me] how [one should|long I] {x}.
Tell me how many minutes I need to {x}.
How long should it take to {x}?"""
MEASURES = """How [much|big|large] is {x}?
What is {x} [in metric|in grams or millilitres|worth in metric]?
Convert {x}[| to metric].
How many [grams or millilitres|millilitres or grams] [is|are in] {x}?
Tell me how much {x} is.
What does {x} come to?
How much would {x} be?
What amount is {x}?
I need {x} in metric.
How much do I take for {x}?
The recipe says {x}. How much is that?
[Give me|Please put|Put] {x} in metric.
In grams or millilitres, [what|how much] is {x}?
Could you convert {x} to metric?
How much do I need for {x} in metric?"""
OUTSIDE = """What [do|would] you [think|say] about {x}?
Tell me [about|something about|all about] {x}.
[Can|Could|May] [you help me with|we talk about|we discuss|I ask you about|I ask about] {x}?
I have a question about {x}.
What do you know about {x}?
Explain {x} to me.
Let us talk about {x}.
I [need|want] [help with|to talk about|advice on] {x}.
Do you [know anything about|like|know about] {x}?
Give me advice on {x}.
What is new in {x}?
How do I learn about {x}?
Who knows about {x}?
Write something about {x}.
What should I know about {x}?
I am interested in {x}.
Help me with {x}.
I wonder about {x}.
What can you tell me about {x}?
I would like to ask something about {x}.
Could you give me help with {x}?"""

# How anything is stated and asked for. {n} is one of the names of the thing, as given for each kind below.
STATED = """{n} is {v}.
[Note|Write down|Remember|Please note|Please remember|Keep in mind|Here is] {n}: {v}.
[Please note|Please remember|I want you to know|You should know|For your notes,|By the way,] [that|] {n} is {v}.
{v} is {n}.
I [wrote down|have] {n}, {v}.
{n}, [it is|that is|namely] {v}."""
ASKED = """What [is|was] {n}[| again]?
[Tell me|Say|Repeat|Please repeat|Give me|Name|Read me] {n}[| again].
[Do you|Do you still] [remember|recall|know] {n}?
[Can|Could] you [tell me|repeat|give me|still recall|read me] {n}?
[And|Now] {n}?
Remind me of {n}.
I forgot {n}.
What did I [say|tell you] {n} was?
Have you [remembered|noted] {n}?
Do you have {n} in your notes?"""

# what a user states: its names, further statements and questions, the answer, the answer if never stated
RECALL = {
    "name": (
        "my name",
        """[I am|I would be|This is|It is] {v}[| here].
        [Call me|You can call me|Please call me|You may call me] {v}.
        [Hello|Hi|Hey|Good morning|Nice to meet you|Good to meet you], [I am|my name is|this is] {v}.
        [People|My friends|Friends] call me {v}.
        I [am called|go by|am named] {v}.
        The name is {v}.
        You are talking to {v}.
        Let me introduce myself: {v}.
        Hello, you can call me {v}.
        Nice to meet you, the name is {v}.""",
        """What am I called?
        Who am I?
        Do you know who I am?
        [Which|What] name did I [give|tell] you?
        How [am I|did I say I am] called?
        By what name do I go?
        What [should|do|can|may] you call me?
        Who are you talking to?
        What do my friends call me?
        Do you still know who I am?
        Tell me what I am called.""",
        "Your name is {v}.",
        "You have not told me your name yet.",
    ),
    "sister": (
        "my sister's name; the name of my sister",
        """My [|little |big |dear ]sister [is called|is named|is|goes by] {v}.
        My sister {v} [will eat with us|is here|helps me|is hungry|is coming].
        I [cook for|live with|am cooking with|will eat with|am here with] my sister {v}.
        [I have a|This is my|Here is my] sister, {v}.
        {v} is my sister.
        My sister, whose name is {v}, [is here|is hungry|is coming].
        I will cook for my big sister {v}.
        This is {v}, my sister.""",
        """What is my sister called?
        Who is my sister?
        How is my sister called?
        [Which|What] name [has|did I give for] my sister?
        By what name does my sister go?
        What did I say my sister is called?
        Do you know my sister?
        Tell me what my sister is called.
        Do you still know who my sister is?""",
        "Your sister is called {v}.",
        "You have not told me about a sister yet.",
    ),
    "shop": (
        "my shop; the name of my shop; my usual shop; my favourite shop",
        """I [buy everything|shop|buy my food|do my shopping|get my groceries|buy my groceries] at {v}.
        I always [go to|shop at|buy at] {v}[| for food].
        The shop [that I use|that I go to|near me] is [called|named] {v}.
        I [got it all|bought it all] [from|at] {v}.
        My [shop|market|usual shop] is [called|named] {v}.
        I [went shopping at|was shopping at|just came from] {v}.
        There is a shop [near me|that I like] called {v}.
        For [food|groceries|shopping] I go to {v}.
        My [food|groceries] [comes|come] from {v}.
        I get all my food at {v}.
        My usual market is {v}.""",
        """Where do I [shop|buy everything|do my shopping|get my groceries|buy my food|buy my groceries]?
        What is my shop called?
        [Which|To which|At which] shop do I [go to|go|buy|use]?
        What was my shop called?
        Where did I [go shopping|buy it all|shop]?
        Where [does|do] my [food|groceries] come from?
        Which shop did I [mention|tell you about]?
        Where do I go for food?
        Tell me where I get my food.
        Tell me what my shop is called.""",
        "You shop at {v}.",
        "You have not told me where you shop yet.",
    ),
    "order": (
        "my order number; the order number; the number of my order",
        """I have [order|order number] {v}.
        It is about order [|number ]{v}.
        My order [is number|has number|has the number|is] {v}.
        I [placed|am calling about|made|am asking about] order [|number ]{v}.
        [Order|Order number] {v} is mine.
        You [will find|should have] [my order under number|an order|order] {v}[| of mine].
        Please look up order {v}.
        I placed an order, number {v}.
        My order is the one with number {v}.""",
        """[Which|What] [order number|number] did I give you for my order?
        [Which|What] [number has|number does] my order[| have]?
        Which order is mine?
        Under which number is my order?
        How is my order numbered?
        Which order did I [place|ask about|call about]?
        Tell me which number my order has.
        Tell me which order I placed.""",
        "Your order number is {v}.",
        "You have not told me an order number yet.",
    ),
    "phone": (
        "my phone number; my telephone number; the number of my phone",
        """[Call|Please call|Phone|Ring] me [at|on|under] {v}.
        You can [reach|call|phone|ring] me [at|on|under] {v}.
        I can be [reached|called] [at|under] {v}.
        My phone has the number {v}.
        If [anything|something] comes up, call {v}.
        For calls, my number is {v}.
        My phone: {v}.
        If something comes up, ring me on {v}.
        My phone can be reached at {v}.""",
        """[Which|What] [phone number|number] did I give you for my phone?
        How can [I be reached|you reach me|you call me]?
        At which number can you [call|reach|ring] me?
        Which number [does|has] my phone[| have]?
        Under which number do I answer the phone?
        Where can you call me?
        Tell me at which number I can be reached.
        Which number can you ring me on?""",
        "Your phone number is {v}.",
        "You have not told me your phone number yet.",
    ),
    "code": (
        "the door code; my door code; the code for the door; the code of the kitchen door",
        """[Open the door with|Use|Take|Type|Enter] {v} [for|at|to open] the door.
        You need [code|the code|] {v} for the door.
        The [kitchen|front|] door opens with {v}.
        The door [has|needs] the code {v}.
        To [open the door|get in at the door|get in], [type|enter|use] {v}.
        At the door, [use|type|enter] [code|the code|] {v}.
        The door opens if you type {v}.
        Enter the code {v} to get in.""",
        """[Which|What] code [opens|does] the door[| have| need]?
        How [do I open the door|does the door open|do I get in]?
        [Which|What] code did I give you for the door?
        What do I [type|enter|use] [at|to open|for] the door?
        [Which|What] code do I need for the door?
        What opens the door?
        Tell me how the door opens.
        Which code do I enter to open the door?""",
        "The door code is {v}.",
        "You have not told me a door code yet.",
    ),
    "table": (
        "my table; our table; my table number; our table number; the number of our table",
        """[We sit|I sit|I am|We are|I am sitting|We are sitting] at table [|number ]{v}.
        [They gave|They gave us] me table {v}.
        [Table|Table number] {v} is [ours|mine].
        You will find [us|me] at table {v}.
        [We|I] [have|took|got|reserved|booked] table [|number ]{v}.
        [It is for|Bring it to|Please bring it to] table {v}.
        They put [us|me] at table {v}.
        Our [seats are|place is] [at|] table {v}.
        We have a place at table {v}.
        We are the people at table {v}.""",
        """[Which|What] table [do I have|did I get|is mine|is ours|did I say|do we have]?
        Where [do I|do we|am I|are we] [sit|sitting]?
        At [which|what] table [am I|do I sit|are we|do we sit]?
        Which table did they give [me|us]?
        Where is our place?
        At which table is our place?
        Tell me at which table we are.""",
        "You are at table {v}.",
        "You have not told me your table yet.",
    ),
    "guests": (
        "the number of guests; the number of my guests; my number of guests",
        """I [am cooking|cook|will cook|need food] for {v} people.
        There [will be|are] {v} [guests|people].
        I [expect|have|invited|am having] {v} [guests|people].
        {v} [people|guests] [are coming|said yes|will come|will eat with us|are coming tonight].
        We are {v} people.
        [It is|This is] a [dinner|party] for {v} [people|guests].
        [The dinner is|Dinner is|Please plan] for {v} [guests|people].
        My [party|dinner] has {v} [guests|people].
        Dinner has to feed {v} people.
        I have to feed {v} guests.
        {v} people will be at my dinner.""",
        """How many [guests|people] [do I have|did I invite|will there be|did I mention|are there|will eat|shall I feed]?
        How many [people|guests] are coming?
        For how many [people|guests|] [do I cook|is the dinner|do I need food]?
        How many are we?
        How big is [the|my] party?
        How many did I invite?
        How many people did I say are coming?
        How many guests do I have to feed?
        Tell me how many people are coming.""",
        "There are {v} guests.",
        "You have not told me how many guests there are.",
    ),
    "amount": (
        "what I have in my kitchen; what I have left",
        """I [have|still have|have got|bought|brought|found|can use] {v}[| left| at home| in the cupboard| in my kitchen].
        There is {v} [in my kitchen|left|on my shelf|in the cupboard|at home].
        At home I have {v}.
        All I have is {v}.
        In my [kitchen|cupboard] there is {v}.
        My [kitchen|cupboard|shelf] [holds|has] {v}.
        We have {v}.
        [I weighed it:|The scales say that] I have {v}.
        What I have is {v}.
        On my shelf there is {v}.
        I found {v} on my shelf.""",
        """How much {i} [do I have|is left|is there|have I got|do we have|can I use|is in my kitchen|did I mention|did I have again|did I say I have]?
        What amount of {i} do I have?
        Tell me how much {i} [I have|is left|there is].
        Do you [remember|still recall|recall] how much {i} I have?
        [Can|Could] you [tell me|still recall] how much {i} I have?
        And how much {i}?
        Remind me how much {i} I have.
        What about my {i}, how much is it?
        [Please repeat|Give me] [how much {i} I have|the amount of {i}].
        How much {i} is left in my kitchen?
        Tell me the amount of {i} that I have.""",
        "You have {v}.",
        "You have not told me how much {i} you have.",
    ),
    "list": (
        "my shopping list; my list; the list; the shopping list",
        """I [need|have|want|am going|plan|would like] to [buy|get] {v}.
        [Put|Add] this [on|to] my list: {v}.
        My list [has|says|holds] {v}.
        Today I [need|want|will buy] {v}.
        On my [shopping list|list] are {v}.
        [I should|Later I will|At the shop I will|Today I will] [get|buy] {v}.
        [For|At] the market I need {v}.
        I [have written|wrote] a list: {v}.
        Please note that I need {v}.
        I will get {v} at the market.
        My list for the shop says {v}.""",
        """What [is|was] on [my|the] [list|shopping list]?
        What [do|did] I [need|want|have|plan] to [buy|get]?
        What [does|did] my list say?
        [Which|What] things are on my list?
        What should I [get|buy] at the [shop|market]?
        What will I [buy|get]?
        Tell me what is on my list.
        Which things do I need to get?""",
        "Your shopping list is: {v}.",
        "You have not told me a shopping list yet.",
    ),
}

RECALL_ZH = {
    "name": (
        "我的名字; 我的姓名",
        "我叫{v}。; 我是{v}。; [你好|您好|初次见面]，我[叫|是]{v}。; 叫我{v}吧。; 你可以叫我{v}。; 大家叫我{v}。; 请叫我{v}。; 我的名字叫{v}。; 朋友叫我{v}。; 这里是{v}。; [记住|顺便说一下]，我[叫|是]{v}。; 你好，大家叫我{v}。; 请记住，我是{v}。",
        "我叫什么[名字|]？; 我是谁？; 我[刚才|之前]说我叫什么[名字|]？; 你[知道|记得]我[叫什么|是谁]吗？; [还记得|请问]我叫什么名字？; 你还记得我是谁吗？; 你能说出我叫什么吗？; 请说我叫什么。; 你还知道我叫什么吗？",
        "你叫{v}。",
        "你还没有告诉我你的名字。",
    ),
    "order": (
        "我的订单号; 订单号; 订单号码; 我的单号",
        "我的订单是{v}[号|]。; 我下了{v}号订单。; 我要问的是订单{v}。; 单号{v}是我的。; 订单：{v}。; 我订单的号码[为|是]{v}。; 请记下订单号{v}。; 我下的订单是{v}号。; 我要问订单号{v}。",
        "我的订单是[几号|多少号]？; 我的订单号码是多少？; 刚才的订单号是多少？; 我下了几号订单？; 哪个订单是我的？; 请告诉我订单是几号。; 我问的是几号订单？",
        "你的订单号是{v}。",
        "你还没有告诉我订单号。",
    ),
}
STATED_ZH = "{n}是{v}。; [记一下|请记住|麻烦记一下|请记下]{n}：{v}。; [这是|我这里的]{n}：{v}。; {n}[为|就是]{v}。"
ASKED_ZH = "{n}是[多少|什么]？; 你[记得|知道|还记得]{n}吗？; [说一下|说出|重复|请重复|请说出|请告诉我]{n}。; {n}呢？; 再说一遍{n}。; 我之前说的{n}是什么？; 你能说出{n}吗？"

NOTED = ["Noted.", "Thank you, I have noted that.", "Good, I will remember that."]
NOTED_ZH = ["好的，我记住了。", "明白了。"]
OPENERS = ["", "", "Certainly. ", "Of course. ", "Gladly. "]
BEFORE_ZH = ["请问，", "那么，", "你好，", "还有，", "对了，", "嗯，", "好的，"]
BEFORE = (
    "Please: ; Hi! ; OK. ; Quick question: ; One more thing: ; And ; So, ; Well, ; Hello! ; Excuse me, ; Now: ; Next: ; "
    "Could you tell me: ; I would like to know: ; Tell me, ; By the way: ; Alright. ; Hm, ; Sorry, ; Great. ; Good. ; Also, "
).split("; ")
AFTER = ["", " Please.", " Thanks!", " Thank you.", " I am curious.", " What do you think?", " please", "??", "!"]
# words that carry little: people leave them out or put them in, so training does too
LITTLE = sorted(
    "please do does did can could would you your me the a an i for to of is are was tell give that this it so some any "
    "just really will then there got get have want like need say said be what which".split()
)
SYSTEMS = ["You are a helpful assistant.", "You are a kitchen assistant.", "You help people to cook."]
