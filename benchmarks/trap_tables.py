# ruff: noqa: E501 - tables read better in long lines
"""Words and sentences for traps.py, written without looking at the guards' tables."""

from __future__ import annotations

UNIT_PAIRS = [
    ("kilometers", "miles"), ("kilograms", "pounds"), ("liters", "gallons"), ("meters", "feet"), ("hours", "minutes"),
    ("days", "weeks"), ("months", "years"), ("dollars", "euros"), ("grams", "ounces"), ("centimeters", "inches"),
    ("rupees", "dollars"), ("MB", "GB"), ("degrees celsius", "degrees fahrenheit"),
]  # fmt: skip

ANTONYM_PAIRS = [
    ("best", "worst"), ("good", "bad"), ("increase", "decrease"), ("buy", "sell"), ("start", "stop"),
    ("open", "close"), ("gain", "lose"), ("fast", "slow"), ("easy", "difficult"), ("before", "after"),
    ("high", "low"), ("cheap", "expensive"), ("legal", "illegal"), ("advantages", "disadvantages"), ("safe", "unsafe"),
    ("delete", "create"), ("male", "female"), ("man", "woman"), ("boys", "girls"), ("love", "hate"), ("hot", "cold"),
    ("black", "white"), ("north", "south"), ("left", "right"), ("big", "small"), ("old", "new"), ("long", "short"),
    ("strong", "weak"), ("rich", "poor"), ("positive", "negative"), ("possible", "impossible"), ("upload", "download"),
    ("win", "lose"), ("import", "export"), ("public", "private"), ("enable", "disable"), ("first", "last"),
    ("happy", "sad"), ("true", "false"), ("light", "heavy"), ("cause", "prevent"), ("largest", "smallest"),
    ("send", "receive"), ("add", "remove"), ("improve", "worsen"), ("more", "less"), ("most", "least"),
]  # fmt: skip

NAMES = [
    "London", "Berlin", "Madrid", "Toronto", "Nairobi", "Lima", "Oslo", "Mumbai", "Osaka", "Sydney", "Brazil", "Norway",
    "Kenya", "Vietnam", "Peru", "Finland", "Google", "Toyota", "Nestle", "Siemens", "Netflix", "Spotify", "Mozart",
    "Darwin", "Picasso", "Gandhi", "Tolstoy", "Beyonce", "Messi", "Einstein", "Harvard", "Stanford", "Oxford",
]  # fmt: skip

PARALLEL = [
    ("What is the capital of Norway?", "Quelle est la capitale de la Norvège ?", "Was ist die Hauptstadt von Norwegen?", "挪威的首都是哪里？"),
    ("How do I learn to swim?", "Comment puis-je apprendre à nager ?", "Wie kann ich schwimmen lernen?", "怎么学游泳？"),
    ("Who wrote Don Quixote?", "Qui a écrit Don Quichotte ?", "¿Quién escribió Don Quijote?", "《堂吉诃德》是谁写的？"),
    ("Why is the sky blue?", "Pourquoi le ciel est-il bleu ?", "Warum ist der Himmel blau?", "天空为什么是蓝色的？"),
    ("How does a computer work?", "Comment fonctionne un ordinateur ?", "¿Cómo funciona un ordenador?", "计算机是怎么工作的？"),
    ("What is artificial intelligence?", "¿Qué es la inteligencia artificial?", "Was ist künstliche Intelligenz?", "什么是人工智能？"),
    ("Where can I buy a bicycle?", "Où puis-je acheter un vélo ?", "Wo kann ich ein Fahrrad kaufen?", "在哪里可以买自行车？"),
    ("What is the population of Germany?", "Quelle est la population de l'Allemagne ?", "¿Cuál es la población de Alemania?", "德国有多少人口？"),
    ("How tall is the Eiffel Tower?", "Quelle est la hauteur de la tour Eiffel ?", "Quanto è alta la torre Eiffel?", "Qual é a altura da Torre Eiffel?"),
    ("Who painted the Mona Lisa?", "Qui a peint la Joconde ?", "Wer malte die Mona Lisa?", "¿Quién pintó la Mona Lisa?"),
    ("When did World War II end?", "Wann endete der Zweite Weltkrieg?", "¿Cuándo terminó la Segunda Guerra Mundial?", "Wanneer eindigde de Tweede Wereldoorlog?"),
    ("Is Python easy to learn?", "Python est-il facile à apprendre ?", "¿Es fácil aprender Python?", "Is Python makkelijk te leren?"),
    ("I forgot my password", "J'ai oublié mon mot de passe", "Ich habe mein Passwort vergessen", "Esqueci minha senha"),
    ("Can I use Netflix offline?", "Puis-je utiliser Netflix hors ligne ?", "Kann ich Netflix offline nutzen?", "Posso usare Netflix offline?"),
    ("How does Google Maps work?", "Hur fungerar Google Maps?", "Jak działa Google Maps?", "Google Maps nasıl çalışır?"),
]  # fmt: skip

# Without the small words that tell a language.
PARALLEL_SHORT = [
    ("best pizza recipe", "la mejor receta de pizza", "la migliore ricetta della pizza", "beste pizzarecept"),
    (
        "Bitcoin price history",
        "Historique du prix du Bitcoin",
        "Bitcoin Preisentwicklung",
        "Historia del precio del Bitcoin",
    ),
    ("chocolate cake calories", "calories gâteau chocolat", "Schokoladenkuchen Kalorien", "calorías tarta chocolate"),
    ("Berlin population", "Berlin Einwohnerzahl", "población de Berlín", "populacja Berlina"),
]

CHINESE = {
    "number": [
        ("3个人去旅游要多少钱", "5个人去旅游要多少钱"), ("贷款20万利息多少", "贷款30万利息多少"), ("第二次世界大战的原因", "第一次世界大战的原因"),
        ("两岁宝宝吃什么好", "四岁宝宝吃什么好"), ("怎么在10天内减肥", "怎么在30天内减肥"), ("100元能买什么", "1000元能买什么"),
    ],
    "negation": [
        ("我可以提前还款吗", "我可以不提前还款吗"), ("为什么能借款", "为什么不能借款"), ("感冒了要吃药吗", "感冒了不要吃药吗"),
        ("如何让孩子听话", "如何不让孩子听话"), ("没有身份证能坐飞机吗", "有身份证能坐飞机吗"),
    ],
    "antonym": [
        ("怎么开通免密支付", "怎么关闭免密支付"), ("如何增加体重", "如何减少体重"), ("怎样提高血压", "怎样降低血压"),
        ("中国最大的湖是哪个", "中国最小的湖是哪个"), ("买房子要注意什么", "卖房子要注意什么"), ("跑步的好处", "跑步的坏处"),
        ("怎么安装驱动程序", "怎么卸载驱动程序"), ("如何绑定银行卡", "如何解绑银行卡"), ("怎么登录账号", "怎么退出账号"),
    ],
    "entity": [
        ("北京有什么好玩的", "上海有什么好玩的"), ("法国的首都是哪里", "德国的首都是哪里"), ("微信怎么转账", "支付宝怎么转账"),
        ("李白的代表作", "杜甫的代表作"), ("英语怎么学", "日语怎么学"), ("华为手机怎么截图", "小米手机怎么截图"),
        ("花呗怎么还款", "借呗怎么还款"), ("张伟是谁", "王芳是谁"), ("青岛的天气怎么样", "大连的天气怎么样"),
    ],
    "direction": [
        ("从北京到上海多远", "从上海到北京多远"), ("把英文翻译成中文", "把中文翻译成英文"), ("人民币换成美元", "美元换成人民币"),
        ("猫比狗聪明吗", "狗比猫聪明吗"), ("微信的钱怎么转到支付宝", "支付宝的钱怎么转到微信"),
    ],
    "question_word": [
        ("为什么学编程", "怎么学编程"), ("什么时候还款", "在哪里还款"), ("谁发明了电话", "什么时候发明了电话"),
        ("还款多少", "什么时候还款"), ("怎么办理贷款", "为什么办理贷款"),
    ],
    "harmless": [
        ("怎么还款", "请问怎么还款？"), ("北京有什么好玩的", "北京有什么好玩的？"), ("如何学习英语", "你好，如何学习英语"),
        ("3个人去旅游要多少钱", "三个人去旅游要多少钱"), ("天空为什么是蓝色的", "天空为什么是蓝色的呢"), ("怎么开通花呗", "怎么开通花呗，谢谢"),
        ("什么是人工智能", "什么是人工智能？"), ("手机怎么截图", "手机怎么截图啊"), ("贷款20万利息多少", "贷款二十万利息多少"),
    ],
}  # fmt: skip
