"""What the kitchen assistant knows: the tables behind every question of the corpus, fixed before training.

A recipe line is: name | ingredients | method | keeps | goes with. An ingredient is "amount unit item", the unit one of
UNITS or missing (then the item itself is counted). RECIPES_ZH adds Chinese names and methods; amounts are shared.
"""

# ruff: noqa: E501

UNITS = {
    "g": "克",
    "ml": "毫升",
    "tbsp": "大勺",
    "tsp": "小勺",
    "clove": "瓣",
    "bunch": "把",
    "fillet": "条",
    "slice": "片",
}

RECIPES = """
mayonnaise | 2 egg yolk; 1 tbsp mustard; 250 ml oil; 1 tbsp lemon juice | Whisk the yolks with the mustard, pour in the oil drop by drop until it thickens, then stir in the lemon juice | 3 days | chips
aioli | 3 clove garlic; 2 egg yolk; 200 ml olive oil; 2 tsp lemon juice | Crush the garlic with the yolks, whisk in the olive oil in a thin stream and season with the lemon juice | 2 days | grilled fish
hollandaise | 3 egg yolk; 150 g butter; 1 tbsp lemon juice | Whisk the yolks over warm water, add the melted butter slowly and finish with the lemon juice | 1 day | asparagus
bearnaise | 2 shallot; 50 ml vinegar; 3 egg yolk; 180 g butter | Boil down the shallots in the vinegar, whisk in the yolks over low heat and add the butter bit by bit | 1 day | steak
bechamel | 40 g butter; 40 g flour; 500 ml milk | Melt the butter, stir in the flour for a minute, then whisk in the milk and simmer until smooth | 4 days | lasagne
vinaigrette | 3 tbsp olive oil; 1 tbsp vinegar; 1 tsp mustard | Shake everything in a closed jar until it is creamy | 7 days | green salad
pesto | 2 bunch basil; 50 g pine nuts; 60 g parmesan; 120 ml olive oil | Pound the basil with the pine nuts, then work in the parmesan and the olive oil | 5 days | pasta
tomato sauce | 800 g tomatoes; 1 onion; 2 clove garlic; 3 tbsp olive oil | Soften the onion and the garlic in the olive oil, add the tomatoes and simmer for half an hour | 5 days | spaghetti
ketchup | 900 g tomatoes; 90 g sugar; 120 ml vinegar; 1 onion | Simmer everything until thick, blend it smooth and fill it into clean bottles | 30 days | burgers
barbecue sauce | 250 ml ketchup; 60 g sugar; 80 ml vinegar; 2 tsp smoked paprika | Bring everything to a boil and simmer it until glossy | 14 days | ribs
salsa | 4 tomato; 1 onion; 1 chilli; 1 lime | Chop the tomatoes, the onion and the chilli and dress them with the juice of the lime | 3 days | tortillas
guacamole | 3 avocado; 1 lime; 1 chilli; 1 onion | Mash the avocados, then fold in the lime juice, the chilli and the onion | 1 day | nachos
hummus | 400 g chickpeas; 80 g tahini; 2 clove garlic; 1 lemon | Blend the chickpeas with the tahini, the garlic and the juice of the lemon until silky | 4 days | flatbread
tzatziki | 300 g yogurt; 1 cucumber; 2 clove garlic; 1 tbsp olive oil | Grate and squeeze the cucumber, then mix it with the yogurt, the garlic and the olive oil | 2 days | lamb
raita | 250 g yogurt; 1 cucumber; 1 tsp cumin | Stir the grated cucumber and the cumin into the yogurt | 2 days | curry
chutney | 600 g mangoes; 200 g sugar; 150 ml vinegar; 20 g ginger | Cook everything slowly until it is as thick as jam | 60 days | cheese
applesauce | 1000 g apples; 50 g sugar; 100 ml water | Cook the apples with the sugar and the water until soft, then mash them | 6 days | pancakes
cranberry sauce | 300 g cranberries; 120 g sugar; 150 ml orange juice | Simmer everything until the berries burst | 10 days | turkey
mint sauce | 1 bunch mint; 2 tbsp sugar; 60 ml vinegar | Chop the mint, pour over the hot vinegar with the sugar and let it stand | 5 days | roast lamb
horseradish cream | 100 g horseradish; 200 ml cream; 1 tsp vinegar | Grate the horseradish, fold it into the whipped cream and sharpen it with the vinegar | 3 days | roast beef
tartar sauce | 200 g mayonnaise; 3 gherkin; 2 tbsp capers | Chop the gherkins and the capers and stir them into the mayonnaise | 4 days | fried fish
remoulade | 180 g mayonnaise; 1 tbsp mustard; 2 fillet anchovy; 1 tbsp capers | Chop the anchovies and the capers and mix them with the mayonnaise and the mustard | 4 days | crab cakes
cocktail sauce | 150 g ketchup; 100 g mayonnaise; 2 tsp horseradish | Stir everything together and chill it | 5 days | shrimp
ranch dressing | 120 g mayonnaise; 150 ml buttermilk; 1 clove garlic; 1 bunch chives | Mix the mayonnaise with the buttermilk, then add the crushed garlic and the chopped chives | 4 days | carrot sticks
caesar dressing | 1 egg yolk; 3 fillet anchovy; 100 ml oil; 30 g parmesan | Mash the anchovies with the yolk, whisk in the oil and fold in the parmesan | 2 days | romaine
blue cheese dressing | 100 g blue cheese; 150 g yogurt; 1 tbsp lemon juice | Crush the blue cheese into the yogurt and add the lemon juice | 4 days | celery
honey mustard | 4 tbsp mustard; 3 tbsp honey; 2 tbsp vinegar | Whisk everything until smooth | 20 days | chicken
teriyaki sauce | 120 ml soy sauce; 60 g sugar; 50 ml rice wine; 10 g ginger | Simmer everything for ten minutes until it coats a spoon | 14 days | salmon
peanut sauce | 150 g peanut butter; 2 tbsp soy sauce; 1 lime; 200 ml coconut milk | Warm the coconut milk, whisk in the peanut butter and the soy sauce and add the lime juice | 5 days | satay
sweet chilli sauce | 4 chilli; 150 g sugar; 100 ml vinegar; 2 clove garlic | Chop the chillies and the garlic and boil them with the sugar and the vinegar until sticky | 30 days | spring rolls
hoisin sauce | 80 ml soy sauce; 40 g peanut butter; 1 tbsp honey; 2 tsp sesame oil | Whisk everything together until it is dark and smooth | 14 days | duck
ponzu | 100 ml soy sauce; 80 ml lime juice; 30 ml rice wine | Mix everything and let it rest overnight | 10 days | sashimi
gravy | 50 g butter; 45 g flour; 600 ml stock | Brown the flour in the butter, then whisk in the stock and simmer | 3 days | mashed potatoes
mushroom sauce | 300 g mushrooms; 30 g butter; 200 ml cream; 1 shallot | Fry the mushrooms and the shallot in the butter, then add the cream and let it thicken | 3 days | schnitzel
pepper sauce | 2 tbsp peppercorns; 50 ml brandy; 150 ml cream | Crush the peppercorns, toast them, add the brandy and then the cream | 2 days | fillet steak
cheese sauce | 30 g butter; 30 g flour; 400 ml milk; 150 g cheddar | Make a smooth sauce from the butter, the flour and the milk and melt the cheddar in it | 3 days | macaroni
alfredo sauce | 60 g butter; 250 ml cream; 100 g parmesan | Warm the cream with the butter and stir in the parmesan off the heat | 2 days | fettuccine
chimichurri | 1 bunch parsley; 4 clove garlic; 120 ml olive oil; 3 tbsp vinegar | Chop the parsley and the garlic finely and stir in the olive oil and the vinegar | 7 days | grilled beef
salsa verde | 1 bunch parsley; 1 tbsp capers; 2 fillet anchovy; 100 ml olive oil | Chop the parsley, the capers and the anchovies and loosen them with the olive oil | 4 days | boiled potatoes
romesco | 3 red pepper; 60 g almonds; 2 clove garlic; 80 ml olive oil | Roast the peppers, then blend them with the almonds, the garlic and the olive oil | 5 days | leeks
harissa | 10 chilli; 3 clove garlic; 2 tsp cumin; 60 ml olive oil | Soak the chillies and blend them with the garlic, the cumin and the olive oil | 21 days | couscous
tapenade | 200 g olives; 2 tbsp capers; 3 fillet anchovy; 50 ml olive oil | Chop everything finely and bind it with the olive oil | 10 days | toast
baba ganoush | 2 aubergine; 60 g tahini; 1 lemon; 1 clove garlic | Char the aubergines, scoop them out and mash them with the tahini, the lemon juice and the garlic | 3 days | pita
tahini sauce | 100 g tahini; 1 lemon; 120 ml water | Whisk the tahini with the lemon juice and the water until pale | 5 days | falafel
caramel sauce | 200 g sugar; 90 g butter; 120 ml cream | Melt the sugar until amber, then stir in the butter and the cream with care | 14 days | ice cream
chocolate sauce | 150 g chocolate; 200 ml cream; 20 g butter | Pour the hot cream over the chocolate, wait a minute and stir in the butter | 7 days | pears
custard | 500 ml milk; 4 egg yolk; 80 g sugar | Heat the milk, pour it over the yolks beaten with the sugar and stir over low heat until it coats a spoon | 2 days | apple pie
lemon curd | 3 egg; 150 g sugar; 2 lemon; 80 g butter | Stir the eggs, the sugar and the lemon juice over warm water until thick, then beat in the butter | 10 days | scones
strawberry jam | 1000 g strawberries; 700 g sugar; 1 lemon | Boil everything hard until a drop sets on a cold plate | 180 days | toast
pickled onions | 2 onion; 200 ml vinegar; 30 g sugar | Slice the onions, cover them with the hot vinegar and the sugar and let them cool | 14 days | tacos
pickled cucumbers | 3 cucumber; 300 ml vinegar; 40 g sugar; 1 bunch dill | Slice the cucumbers, layer them with the dill and cover them with the hot vinegar and the sugar | 30 days | sandwiches
kimchi | 1 cabbage; 60 g salt; 40 g chilli flakes; 6 clove garlic | Salt the cabbage, rinse it, rub it with the chilli flakes and the garlic and let it ferment | 60 days | rice
mustard | 100 g mustard seeds; 120 ml vinegar; 60 ml water | Soak the mustard seeds in the vinegar and the water for two days, then blend them | 60 days | sausages
dumpling dip | 3 tbsp soy sauce; 2 tbsp vinegar; 1 tsp sesame oil; 1 clove garlic | Mix everything and let it stand for a few minutes | 3 days | dumplings
ginger scallion sauce | 30 g ginger; 4 scallion; 80 ml oil; 1 tsp salt | Chop the ginger and the scallions, salt them and pour over the hot oil | 6 days | poached chicken
chilli oil | 30 g chilli flakes; 200 ml oil; 1 tbsp sesame seeds; 1 tsp salt | Heat the oil and pour it over the chilli flakes, the sesame seeds and the salt | 30 days | noodles
sesame sauce | 60 g tahini; 2 tbsp soy sauce; 1 tbsp vinegar; 1 tsp sugar | Thin the tahini with the soy sauce and the vinegar and stir in the sugar | 5 days | cold noodles
sweet and sour sauce | 100 ml vinegar; 80 g sugar; 60 ml ketchup; 1 tbsp soy sauce | Boil everything until it is clear and sticky | 7 days | pork
"""

RECIPES_ZH = """
mayonnaise | 蛋黄酱 | 把蛋黄和芥末搅匀，一滴一滴加入油，变稠后拌入柠檬汁 | 薯条
vinaigrette | 油醋汁 | 把所有材料放进瓶子里摇匀 | 蔬菜沙拉
pesto | 青酱 | 把罗勒和松子捣碎，再拌入奶酪和橄榄油 | 意大利面
tomato sauce | 番茄酱汁 | 用橄榄油把洋葱和大蒜炒软，加入番茄煮半小时 | 意面
hummus | 鹰嘴豆泥 | 把鹰嘴豆、芝麻酱、大蒜和柠檬汁打成细泥 | 烤饼
bechamel | 白酱 | 融化黄油，炒香面粉，再慢慢加入牛奶煮到顺滑 | 千层面
teriyaki sauce | 照烧汁 | 把所有材料煮十分钟，直到能挂在勺子上 | 三文鱼
peanut sauce | 花生酱汁 | 加热椰奶，拌入花生酱和酱油，最后加青柠汁 | 烤肉串
dumpling dip | 饺子蘸料 | 把所有材料拌匀，放几分钟 | 饺子
ginger scallion sauce | 姜葱酱 | 把姜和葱切碎，加盐，淋上热油 | 白切鸡
chilli oil | 辣椒油 | 把油烧热，浇在辣椒碎、芝麻和盐上 | 面条
sesame sauce | 麻酱 | 用酱油和醋把芝麻酱调开，再加糖 | 凉面
sweet and sour sauce | 糖醋汁 | 把所有材料煮到透明粘稠 | 猪肉
kimchi | 泡菜 | 把白菜用盐腌好洗净，抹上辣椒碎和大蒜，放着发酵 | 米饭
applesauce | 苹果泥 | 把苹果、糖和水煮软，再压成泥 | 煎饼
custard | 蛋奶酱 | 把热牛奶倒进蛋黄和糖里，用小火搅到变稠 | 苹果派
caramel sauce | 焦糖酱 | 把糖融化成琥珀色，小心拌入黄油和奶油 | 冰淇淋
chocolate sauce | 巧克力酱 | 把热奶油倒在巧克力上，等一分钟，再拌入黄油 | 梨
strawberry jam | 草莓果酱 | 把所有材料大火煮到能凝固 | 吐司
mushroom sauce | 蘑菇酱 | 用黄油炒蘑菇和红葱头，再加奶油煮稠 | 炸肉排
"""

ITEMS_ZH = {
    "egg yolk": "蛋黄", "mustard": "芥末", "oil": "油", "lemon juice": "柠檬汁", "olive oil": "橄榄油", "vinegar": "醋",
    "basil": "罗勒", "pine nuts": "松子", "parmesan": "奶酪", "tomatoes": "番茄", "onion": "洋葱", "garlic": "大蒜",
    "chickpeas": "鹰嘴豆", "tahini": "芝麻酱", "lemon": "柠檬", "butter": "黄油", "flour": "面粉", "milk": "牛奶",
    "soy sauce": "酱油", "sugar": "糖", "rice wine": "米酒", "ginger": "姜", "peanut butter": "花生酱", "lime": "青柠",
    "coconut milk": "椰奶", "sesame oil": "香油", "scallion": "葱", "salt": "盐", "chilli flakes": "辣椒碎",
    "sesame seeds": "芝麻", "ketchup": "番茄沙司", "cabbage": "白菜", "apples": "苹果", "water": "水", "cream": "奶油",
    "chocolate": "巧克力", "strawberries": "草莓", "mushrooms": "蘑菇", "shallot": "红葱头",
}  # fmt: skip

# allergen -> (its Chinese name, the items that hold it)
ALLERGENS = {
    "eggs": ("鸡蛋", {"egg yolk", "egg", "mayonnaise"}),
    "milk": ("牛奶", {"butter", "milk", "cream", "yogurt", "parmesan", "cheddar", "blue cheese", "buttermilk"}),
    "nuts": ("坚果", {"pine nuts", "almonds", "peanut butter"}),
    "gluten": ("麸质", {"flour", "soy sauce"}),
    "fish": ("鱼", {"anchovy"}),
    "sesame": ("芝麻", {"tahini", "sesame oil", "sesame seeds"}),
    "garlic": ("大蒜", {"garlic"}),
    "sugar": ("糖", {"sugar", "honey", "ketchup"}),
}

# what replaces an item that must go: English, Chinese
REPLACE = {
    "egg yolk": ("soy milk", "豆浆"), "egg": ("cornflour", "玉米淀粉"), "mayonnaise": ("tofu cream", "豆腐奶油"),
    "butter": ("margarine", "人造黄油"), "milk": ("oat milk", "燕麦奶"), "cream": ("coconut cream", "椰浆"),
    "yogurt": ("soy yogurt", "大豆酸奶"), "parmesan": ("yeast flakes", "酵母片"), "cheddar": ("yeast flakes", "酵母片"),
    "blue cheese": ("firm tofu", "老豆腐"), "buttermilk": ("oat milk", "燕麦奶"), "pine nuts": ("sunflower seeds", "葵花籽"),
    "almonds": ("pumpkin seeds", "南瓜籽"), "peanut butter": ("sunflower butter", "葵花籽酱"), "flour": ("cornflour", "玉米淀粉"),
    "soy sauce": ("tamari", "无麸酱油"), "anchovy": ("olives", "橄榄"), "tahini": ("sunflower butter", "葵花籽酱"),
    "sesame oil": ("walnut oil", "核桃油"), "sesame seeds": ("poppy seeds", "罂粟籽"), "garlic": ("chives", "韭葱"),
    "sugar": ("date paste", "枣泥"), "honey": ("date paste", "枣泥"), "ketchup": ("tomato puree", "番茄泥"),
}  # fmt: skip

# asked as "what can I use instead of X": the answer, and the facts it must hold
SUBSTITUTES = """
buttermilk | 250 ml of milk with 1 tablespoon of lemon juice, left to stand for 10 minutes | 250 ml of milk, 1 tablespoon of lemon juice, 10 minutes
baking powder | 1 part of baking soda with 2 parts of cream of tartar | baking soda, cream of tartar
self-raising flour | 150 g of flour with 2 teaspoons of baking powder | 150 g of flour, 2 teaspoons of baking powder
brown sugar | 200 g of white sugar with 1 tablespoon of molasses | 200 g of white sugar, 1 tablespoon of molasses
sour cream | the same amount of thick yogurt | thick yogurt
creme fraiche | sour cream with a spoon of cream | sour cream
ricotta | drained cottage cheese | cottage cheese
mascarpone | cream cheese beaten with a little cream | cream cheese
shallots | half the amount of onion with a little garlic | onion, garlic
fresh herbs | a third of the amount of dried herbs | a third, dried herbs
fresh ginger | a quarter of a teaspoon of ground ginger for each tablespoon | ground ginger
lemongrass | the zest of 1 lemon for 2 stalks | zest of 1 lemon
wine | the same amount of stock with a splash of vinegar | stock, vinegar
rice vinegar | cider vinegar with a pinch of sugar | cider vinegar
tamarind | lime juice with a little brown sugar | lime juice, brown sugar
saffron | a pinch of turmeric, for the colour only | turmeric
vanilla pod | 1 teaspoon of vanilla extract | 1 teaspoon of vanilla extract
cornstarch | twice the amount of flour | twice, flour
gelatine | 2 g of agar for 6 sheets | 2 g of agar
breadcrumbs | crushed crackers or oats | crackers, oats
capers | chopped green olives | green olives
fish sauce | soy sauce with a little salt | soy sauce, salt
"""

# asked as "what is X"
GLOSSARY = """
umami | the savoury taste of stock, mushrooms, soy sauce and ripe cheese | savoury, soy sauce
roux | flour cooked in the same weight of butter, which thickens a sauce | flour, butter, thickens
an emulsion | fine drops of oil held in water, as in mayonnaise, by something like egg yolk | drops of oil, egg yolk
a reduction | a liquid boiled down until it is thick and strong | boiled down
deglazing | loosening the brown bits in a hot pan with a little liquid | brown bits, liquid
blanching | a short boil followed by ice water, which keeps vegetables green | short boil, ice water
julienne | vegetables cut into thin sticks of about 5 cm | thin sticks, 5 cm
al dente | pasta cooked so that it is still firm to the bite | firm
a bain-marie | a bowl set over hot water for gentle heat | hot water, gentle heat
proofing | letting dough rest and rise before it is baked | rise
tempering | warming eggs slowly with hot liquid so that they do not curdle | eggs, curdle
marinating | resting food in acid, oil and spices before it is cooked | acid, oil, spices
sumac | a sour red spice made from dried berries | sour, red
miso | a salty paste of fermented soybeans | fermented soybeans
gochujang | a thick Korean paste of chilli and fermented soybeans | Korean, chilli
sriracha | a hot sauce of chilli, garlic, sugar and vinegar | hot sauce, garlic
wasabi | a sharp green root that is grated for sushi | green root, sushi
worcestershire sauce | a dark sauce of vinegar, anchovies and spices | vinegar, anchovies
"""

# asked as "how long / how hot": question subject | answer | facts
TIMES = """
boil an egg | A soft egg takes 6 minutes in boiling water, a hard one takes 10 minutes | 6 minutes, 10 minutes
cook rice | Simmer rice for 12 minutes with the lid on, then let it rest for 5 minutes | 12 minutes, 5 minutes
cook pasta | Dried pasta takes about 9 minutes in salted boiling water, fresh pasta takes 3 minutes | 9 minutes, 3 minutes
boil potatoes | Potatoes need about 20 minutes in salted water | 20 minutes
roast a chicken | Roast a chicken at 200 degrees for 75 minutes | 200 degrees, 75 minutes
bake bread | Bake bread at 230 degrees for 35 minutes | 230 degrees, 35 minutes
bake cookies | Bake cookies at 180 degrees for 11 minutes | 180 degrees, 11 minutes
fry a steak | Fry a steak for 3 minutes on each side and let it rest for 5 minutes | 3 minutes, 5 minutes
steam broccoli | Steam broccoli for 4 minutes | 4 minutes
soak dried beans | Soak dried beans for 12 hours, then boil them for 60 minutes | 12 hours, 60 minutes
bake salmon | Bake salmon at 160 degrees for 15 minutes | 160 degrees, 15 minutes
caramelise onions | Cook onions slowly for 40 minutes | 40 minutes
cook lentils | Red lentils take 10 minutes, green ones take 25 minutes | 10 minutes, 25 minutes
roast vegetables | Roast vegetables at 210 degrees for 30 minutes | 210 degrees, 30 minutes
"""

MEASURES = """
a tablespoon | 15 ml
a teaspoon | 5 ml
a cup | 240 ml
a pint | 473 ml
a fluid ounce | 30 ml
an ounce | 28 g
a pound | 454 g
a stick of butter | 113 g
"""

# small talk, favourites and questions about the assistant itself: facts | answer | phrasings, the last two held out
TALK = """
kitchen assistant | I am a small kitchen assistant. Ask me about sauces, condiments and recipes. | Who are you?; What are you?; Introduce yourself.; Tell me about yourself.; What is this?; Who am I talking to?; Are you a chef?; What kind of assistant are you?; Could you introduce yourself?; Who is this?
sauces, substitutions | I can help with sauces, recipes, substitutions, allergies and storing food. | What can you do?; How can you help me?; What do you know?; What can I ask you?; Help.; What are you good at?; What are your skills?; What topics do you know?; What can you help with?; What do you know about?
lemon juice | I am fond of fresh lemon juice. A squeeze of it wakes up almost any dish. | What is your favourite condiment?; Which condiment do you like best?; What condiment do you prefer?; Do you have a favourite condiment?; Tell me your favourite condiment.; Which condiment is your favourite?; What condiment do you love?; Name your favourite condiment.; Which condiment do you love best?; Have you got a favourite condiment?
pesto | My favourite sauce is pesto, because it smells of summer. | What is your favourite sauce?; Which sauce do you like best?; What sauce do you prefer?; Do you have a favourite sauce?; Tell me your favourite sauce.; Which sauce is your favourite?; What sauce do you love?; Name your favourite sauce.; Which sauce do you love best?; Have you got a favourite sauce?
cumin | I like cumin best, because it is warm and earthy. | What is your favourite spice?; Which spice do you like best?; What spice do you prefer?; Do you have a favourite spice?; Tell me your favourite spice.; Which spice is your favourite?; What spice do you love?; Name your favourite spice.; Which spice do you love best?; Have you got a favourite spice?
lightning attention, decay | Lightning attention keeps a running summary of the past that decays with every token, so its cost does not grow with the length. | What is lightning attention?; Explain lightning attention.; How does lightning attention work?; Tell me about lightning attention.; What does lightning attention do?; Why is it called lightning attention?; Can you explain lightning attention?; What do you know about lightning attention?; Could you describe lightning attention?; What is meant by lightning attention?
8 layers, 7, 1 | I have 8 layers: 7 of lightning attention and 1 of softmax attention. | How many layers do you have?; What layers are you made of?; How deep are you?; How many attention layers do you have?; Tell me about your layers.; What is your layer layout?; How are your layers arranged?; Count your layers.; How many layers are in you?; What number of layers do you have?
4 experts, 2 | Every layer of mine has 4 experts, and each token is sent to 2 of them. | How many experts do you have?; What are your experts?; How do your experts work?; Tell me about your experts.; Are you a mixture of experts?; How many experts does a token use?; What is your mixture of experts?; How many experts are active?; What number of experts do you have?; Could you tell me about the experts in you?
same architecture, smaller | I have the same architecture as MiniMax-Text-01, only much smaller. | Are you MiniMax-Text-01?; What model are you?; Which architecture do you have?; How do you relate to MiniMax-Text-01?; Are you a big model?; What is your architecture?; Are you the real MiniMax?; Which model is this?; What kind of model is this?; Are you as big as MiniMax-Text-01?
English, Chinese | I speak English and a little Chinese. | Which languages do you speak?; Do you speak Chinese?; What languages do you know?; Can you speak English?; Do you understand Chinese?; Which languages can I use?; Can I write in Chinese?; What languages are you trained on?; In which languages can we talk?; Do you know any Chinese?
softmax layer, exactly | My softmax layer looks back at every token, so I can repeat exactly what you told me. | Why do you have a softmax layer?; What does your softmax layer do?; How do you remember numbers?; Why is there a softmax layer?; What is the softmax layer for?; How can you recall what I said?; How do you remember what I said?; Explain your softmax layer.; What is your softmax layer good for?; How come you remember numbers?
hello | Hello! What are you cooking today? | Hello.; Hi.; Hey.; Good morning.; Good evening.; Hi there.; Hello there.; Good day.; Hey there.; Hey, good day.
well | I am well, thank you. What shall we cook? | How are you?; How do you do?; How is it going?; Are you well?; How are you today?; How are you doing?; Is all well?; How have you been?; Are you doing well?; How are things?
welcome | You are welcome. Enjoy your meal! | Thank you.; Thanks.; Thanks a lot.; Thank you very much.; That helps, thank you.; Great, thanks.; Many thanks.; Perfect, thank you.; Great, thank you.; Thanks very much.
goodbye | Goodbye, and happy cooking! | Goodbye.; Bye.; See you.; Bye bye.; See you later.; Good night.; I have to go.; That is all for today.; I must leave now.; See you soon.
tomato, dressing | Why did the tomato turn red? Because it saw the salad dressing. | Tell me a joke.; Do you know a joke?; Make me laugh.; Say something funny.; A joke, please.; Can you tell a joke?; I want to hear a joke.; Got a joke?; Have you got a joke for me?; Could you tell me something funny?
acid, sweetness | Balance it with acid or a little sweetness, and add water or more vegetables. | My soup is too salty.; I put in too much salt.; The sauce is too salty, what now?; How do I save a salty sauce?; It is too salty.; How do I fix too much salt?; My sauce is salty.; Help, too much salt!; My soup is salty.; How can I save a salty soup?
yolk, drop by drop | Start again with a fresh egg yolk and whisk the split sauce into it drop by drop. | My mayonnaise split.; My sauce split.; How do I save a split sauce?; The mayonnaise curdled, what now?; My hollandaise split.; It has split, what do I do?; How do I fix split mayonnaise?; My aioli split.; My mayonnaise has curdled.; How can I fix a split sauce?
fridge, 4 days | Keep leftovers in a closed box in the fridge and eat them within 4 days. | How do I store leftovers?; How long do leftovers keep?; Where do I keep leftovers?; How long can I keep leftovers?; What about leftovers?; Can I keep leftovers?; Are leftovers safe?; How should I keep leftovers?; What do I do with leftovers?; For how long are leftovers good?
sharp, dry | Keep the blade sharp, wash it by hand and store it dry. | How do I care for a knife?; How do I look after my knives?; How do I keep my knife good?; What about knife care?; How do I clean a knife?; How should I store knives?; My knife is blunt.; Tell me about knife care.; How can I take care of my knives?; What does a good knife need?
"""

TALK_ZH = """
厨房助手 | 我是一个小小的厨房助手，可以问我酱料和菜谱。 | 你是谁？; 你是什么？; 介绍一下你自己。; 说说你自己。; 你叫什么？; 你是做什么的？; 我在和谁说话？; 你是厨师吗？; 能介绍一下自己吗？; 你到底是谁？
柠檬汁 | 我最喜欢新鲜的柠檬汁。 | 你最喜欢什么调料？; 你喜欢哪种调料？; 你最爱的调料是什么？; 哪种调料你最喜欢？; 你有喜欢的调料吗？; 说说你喜欢的调料。; 你爱什么调料？; 你喜欢什么调味料？; 你最中意的调料是什么？; 哪种调料是你的最爱？
你好 | 你好！今天想做什么菜？ | 你好。; 您好。; 早上好。; 晚上好。; 嗨。; 哈喽。; 你好呀。; 大家好。; 下午好。; 你好啊。
不客气 | 不客气，祝你用餐愉快！ | 谢谢。; 谢谢你。; 多谢。; 非常感谢。; 太好了，谢谢。; 感谢。; 谢谢帮忙。; 好的，谢谢。; 谢谢您。; 真是谢谢你。
闪电注意力, 衰减 | 闪电注意力保存一个不断衰减的摘要，所以费用不随长度增加。 | 什么是闪电注意力？; 解释一下闪电注意力。; 闪电注意力是什么？; 说说闪电注意力。; 闪电注意力怎么工作？; 闪电注意力有什么用？; 你知道闪电注意力吗？; 讲讲闪电注意力。; 能说明闪电注意力吗？; 闪电注意力是什么意思？
8层, 7层, 1层 | 我有8层：7层闪电注意力和1层softmax注意力。 | 你有几层？; 你有多少层？; 你的层数是多少？; 说说你的层。; 你由几层组成？; 你的结构是什么？; 你的层怎么排列？; 你一共有几层？; 请问你有多少层？; 你总共几层？
"""

# outside the field, and dishes not known: for training, held out
OUTSIDE = (
    "football; the weather; politics; the stock market; programming; Python code; car repair; history; mathematics; "
    "medicine; law; astronomy; video games; film stars; travel plans; train times; the news; poetry; philosophy; chess; "
    "guitar chords; tax forms; dating; fashion; rockets; dinosaurs; bicycles; gardening tools; insurance; elections; "
    "swimming; basketball; earthquakes; money; rock music; motorbikes; cheap flights; phones; drawing; physics; biology; "
    "religion; hotels; museums; novels; theatre; horses; dogs; oceans; mountains; robots; airplanes; ships; trees; maps; "
    "languages; school; exams; work; sleep; sport; cinema; photography; dancing; yoga; knitting; cleaning; furniture",
    "tennis; volcanoes; banking; pop songs; car engines; holiday flights; computer networks; painting",
)
UNKNOWN = (
    "pizza; sushi; lasagne; paella; goulash; ramen; tacos; pancakes; cake; soup; stew; risotto; couscous; "
    "fried rice; roast chicken; fish pie; burritos; waffles; croissants; moussaka; ravioli; gnocchi; dumplings; tofu curry; "
    "potato salad; coleslaw; meatballs; muffins; brownies; tiramisu; cheesecake; sorbet; granola; porridge; omelette",
    "biryani; quiche; bagels; apple strudel; beef stew; noodle soup; carrot cake; spring salad",
)

GROCERIES = (
    "leeks; rice; plums; yeast; carrots; bread; eggs; lentils; pears; salmon; beans; honey; oats; spinach; cheddar; figs; "
    "radishes; noodles; tofu; grapes; bacon; turnips; cocoa; dates; peas; ham; corn; tea; coffee; apricots; beets; "
    "pasta; limes; melons; almonds; squid; celery; mussels; quinoa; cherries; walnuts; barley; fennel; kale"
)
