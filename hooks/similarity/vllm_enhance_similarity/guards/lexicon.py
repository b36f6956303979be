# ruff: noqa: E501 - tables read better in long lines
"""Word tables of the guards, English and Chinese. Small on purpose: what changes an answer, not what colours it."""

from __future__ import annotations

__all__ = [
    "ANTONYMS",
    "ENTITIES",
    "ENTITIES_ZH",
    "FUNCTION_WORDS",
    "NEGATIONS",
    "NEGATIONS_ZH",
    "NOT_NEGATIONS_ZH",
    "NUMBER_WORDS",
    "ORDINAL_WORDS",
    "PREFIXES_OF_OPPOSITES",
    "TIME_BOUND",
    "TIME_BOUND_ZH",
    "UNDOING_ZH",
    "UNITS",
    "UNITS_ZH",
    "words",
]


def words(text: str) -> frozenset[str]:
    """A table's row, written as one line."""
    return frozenset(text.split())


def _counted(text: str, first: int = 0) -> dict[str, int]:
    return {word: value for value, word in enumerate(text.split(), first)}


def _pairs(text: str) -> dict[str, frozenset[str]]:
    """ "a/b c,d/e" -> symmetric table: a-b, c-e, d-e."""
    table: dict[str, set[str]] = {}
    for item in text.split():
        left, right = (side.split(",") for side in item.split("/"))
        for one in left:
            for other in right:
                table.setdefault(one, set()).add(other)
                table.setdefault(other, set()).add(one)
    return {word: frozenset(opposites) for word, opposites in table.items()}


def _classes(text: str) -> dict[str, tuple[str, str]]:
    """Lines of "dimension: name=alias,alias ..." -> alias -> (dimension, name)."""
    table: dict[str, tuple[str, str]] = {}
    for line in text.strip().splitlines():
        dimension, _, rest = line.strip().partition(":")
        for item in rest.split():
            name, _, aliases = item.partition("=")
            for alias in [name, *filter(None, aliases.split(","))]:
                table[alias] = (dimension, name)
    return table


NUMBER_WORDS = {
    **_counted("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"),
    **_counted("sixteen seventeen eighteen nineteen", 16),
    **{word: 10 * tens for word, tens in _counted("twenty thirty forty fifty sixty seventy eighty ninety", 2).items()},
}
ORDINAL_WORDS = _counted("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", 1)

NEGATIONS = words(
    "not no never without cannot cant wont dont doesnt didnt isnt arent wasnt werent wouldnt shouldnt couldnt hasnt "
    "havent hadnt neither nor none nobody nothing nowhere hardly barely unable fail fails failed failing refuse refuses except "
    "excluding"
)
NEGATIONS_ZH = ("不", "没", "无", "未", "非", "别", "勿", "莫", "除了", "禁止")
# What ends or undoes what the next word says: 关注 / 取消关注.
UNDOING_ZH = ("取消", "停止", "终止", "解除", "撤销")
# Characters of negation that negate nothing: fixed words and A-not-A questions. Removed before looking.
NOT_NEGATIONS_ZH = [
    "是不是",
    "能不能",
    "可不可以",
    "要不要",
    "会不会",
    "有没有",
    "好不好",
    "行不行",
    "对不对",
    "该不该",
    "用不用",
    "需不需要",
    "应不应该",
    "值不值得",
    "不同",
    "不过",
    "不仅",
    "不但",
    "不管",
    "不论",
    "无论",
    "不错",
    "差不多",
    "不断",
    "不如",
    "不久",
    "不客气",
    "不好意思",
    "不得不",
    "无线",
    "无限",
    "非常",
    "非洲",
    "别人",
    "特别",
    "分别",
    "区别",
    "级别",
    "类别",
    "性别",
    "识别",
    "个别",
    "告别",
    "未来",
    "未必",
    "除非",
    "没关系",
    "莫非",
    "无锡",
    "无人机",
]

ANTONYMS = _pairs(
    "increase,raise,grow,boost,gain/decrease,reduce,lower,shrink,lose,cut,drop increasing/decreasing "
    "best,good,great/worst,bad,terrible better/worse most/least more/less,fewer maximum,max/minimum,min "
    "highest/lowest high/low higher/lower largest,biggest/smallest large,big,huge/small,tiny,little "
    "larger,bigger/smaller long/short longer/shorter tall/short fast,quick/slow faster/slower quickly/slowly "
    "old/new,young older/newer,younger oldest/newest,youngest early/late earlier/later earliest/latest before/after "
    "hot,warm/cold,cool hottest/coldest cheap/expensive cheapest/expensive easy,simple/hard,difficult "
    "easier/harder easiest/hardest strong/weak rich/poor heavy/light hard/soft wet/dry clean/dirty full/empty "
    "open/close,closed,shut start,begin/stop,end,finish,quit started/stopped install/uninstall,remove "
    "enable/disable enabled/disabled activate/deactivate,cancel add/remove,delete,subtract,drop insert/delete,remove "
    "create,make/delete,destroy,remove,break buy,purchase/sell buying/selling import/export upload/download "
    "send/receive give/take push/pull connect/disconnect lock/unlock freeze/unfreeze block/unblock "
    "login/logout encrypt/decrypt compress/decompress,extract encode/decode allow,permit/forbid,prevent,block,ban "
    "accept,approve/reject,refuse,decline,deny agree/disagree like,love/hate,dislike win/lose winning/losing "
    "pass/fail success/failure succeed/fail true/false right/wrong,left correct/incorrect,wrong "
    "legal/illegal safe/dangerous,unsafe,risky healthy/unhealthy happy/sad,unhappy positive/negative "
    "advantage/disadvantage advantages/disadvantages pros/cons benefits,benefit/drawbacks,drawback,risks,harms "
    "strengths/weaknesses up/down upper/lower above,over/below,under top/bottom inside,in/outside,out "
    "inner/outer internal/external front/back,rear left/right north/south east/west northern/southern eastern/western "
    "male,man,boy/female,woman,girl men,boys/women,girls husband/wife father,dad/mother,mom brother/sister son/daughter "
    "king/queen uncle/aunt he/she his/her public/private indoor/outdoor domestic/foreign,international "
    "local/remote,global online/offline on/off always/never sometimes/never,always often/rarely "
    "everyone,everybody/nobody all/none some/none day/night morning/evening,night summer/winter spring/autumn,fall "
    "ascending/descending forward,forwards/backward,backwards horizontal/vertical horizontally/vertically "
    "input/output read/write even/odd deposit/withdraw,withdrawal credit/debit debt/asset lend/borrow "
    "arrive/leave,depart arrival/departure arrivals/departures enter/exit join/leave come/go "
    "visible/hidden show/hide shown/hidden attack/defend friend/enemy peace/war life/death live/die alive/dead "
    "birth/death born/died marry/divorce married/divorced,single acid/base ac/dc solid/liquid,gas liquid/gas "
    "single/multiple,double permanent,permanently/temporary,temporarily ancient/modern major/minor "
    "offense/defense guilty/innocent active/passive,inactive sync/async synchronous/asynchronous "
    "static/dynamic mutable/immutable client/server source/destination sender/recipient,receiver "
    "lighten/darken brighten/dim light,bright/dark thick/thin wide/narrow deep/shallow thicken/thin "
    "lengthen/shorten widen/narrow strengthen/weaken improve/worsen,degrade appear/disappear "
    "gain/loss profit/loss profits/losses supply/demand bull/bear bullish/bearish inflation/deflation "
    "include,including/exclude,excluding with/without for/against introvert/extrovert optimist/pessimist "
    "expand/collapse,contract zoom-in/zoom-out mount/unmount plug/unplug pack/unpack load/unload turn-on/turn-off "
    "into/out employer/employee landlord/tenant lender/borrower buyer/seller teacher/student doctor/patient host/guest "
    "remember/forget sleep/wake asleep/awake laugh/cry sit/stand sweet/sour,bitter raw/cooked fresh/stale "
    "增加,提高,上升,增长,提升/减少,降低,下降,缩短 上涨/下跌 买,买入,购买/卖,卖出,出售 打开,开启,启用/关闭,禁用,停用 "
    "安装/卸载 添加,增加/删除,移除 上传/下载 登录/退出,登出 加密/解密 压缩/解压 存款,存入/取款,取出 借入/借出 "
    "最大/最小 最高/最低 最好/最差 最多/最少 最长/最短 最快/最慢 最早/最晚 优点,优势,好处/缺点,劣势,坏处 优/劣 "
    "利/弊 成功/失败 安全/危险 合法/非法,违法 正确/错误 之前,以前/之后,以后 前/后 上/下 左/右 大/小 多/少 高/低 长/短 "
    "快/慢 新/旧 早/晚 冷/热 男/女 男性/女性 男人/女人 父亲,爸爸/母亲,妈妈 丈夫/妻子 哥哥/姐姐 弟弟/妹妹 东/西 南/北 "
    "夏天/冬天 夏季/冬季 白天/晚上,夜里 支持/反对 允许/禁止 同意/拒绝,反对 接受/拒绝 喜欢/讨厌 开始/结束,停止 "
    "进口/出口 收入/支出 盈利/亏损 赢/输 胜/负 生/死 出生/死亡,去世 结婚/离婚 真/假 公开/私有 国内/国外,国际 "
    "线上/线下 在线/离线 升序/降序 横向/纵向 水平/垂直 同步/异步 静态/动态 客户端/服务器,服务端 输入/输出 读/写 加/减 "
    "绑定/解绑 冻结/解冻 锁定/解锁 连接/断开 加入/退出 发送/接收 提前/推迟,延期 提前/逾期 借/还 转入/转出 充值/提现 "
    "开通/关闭,注销 贵/便宜 容易,简单/困难 强/弱 胖/瘦 增肥/减肥 变大/变小 放大/缩小 穷/富 肯定/否定 积极/消极"
)
PREFIXES_OF_OPPOSITES = ("un", "in", "im", "il", "ir", "dis", "non", "anti", "de", "mis", "a")

UNITS = _classes(
    """
    length: km=kilometer,kilometers,kilometre,kilometres,kms mile=miles,mi m=meter,meters,metre,metres foot=feet,ft inch=inches cm=centimeter,centimeters,centimetre,centimetres mm=millimeter,millimeters yard=yards,yd lightyear=lightyears
    mass: kg=kilogram,kilograms,kilo,kilos,kgs lb=pound,pounds,lbs g=gram,grams oz=ounce,ounces ton=tons,tonne,tonnes mg=milligram,milligrams stone=stones
    time: sec=second,seconds,secs minute=minutes,mins hour=hours,hr,hrs day=days week=weeks month=months year=years,yr,yrs decade=decades century=centuries ms=millisecond,milliseconds
    temperature: celsius=centigrade,c fahrenheit=f kelvin
    money: dollar=dollars,usd,bucks euro=euros,eur gbp=sterling yen=jpy,yens rupee=rupees,inr yuan=rmb,cny,renminbi cent=cents bitcoin=btc,bitcoins peso=pesos franc=francs won ruble=rubles
    volume: liter=liters,litre,litres gallon=gallons ml=milliliter,milliliters cup=cups pint=pints tablespoon=tablespoons,tbsp teaspoon=teaspoons,tsp quart=quarts
    data: byte=bytes kb=kilobyte,kilobytes mb=megabyte,megabytes gb=gigabyte,gigabytes tb=terabyte,terabytes bit=bits kbps mbps gbps
    speed: mph kmh=kph,kmph knot=knots
    power: watt=watts,w kw=kilowatt,kilowatts kwh volt=volts amp=amps,ampere,amperes joule=joules calorie=calories,kcal hp=horsepower
    area: acre=acres hectare=hectares sqft sqm
    share: percent=%,percentage
    clock: am=a.m pm=p.m
    """
)
UNITS_ZH = _classes(
    """
    length: km=公里,千米 mile=英里 m=米 cm=厘米,公分 mm=毫米 foot=英尺 inch=英寸 li=里
    mass: kg=公斤,千克 jin=斤 g=克 ton=吨 lb=磅 oz=盎司
    time: sec=秒 minute=分钟 hour=小时 day=天 week=周,星期 month=个月 year=年
    temperature: celsius=摄氏度,摄氏 fahrenheit=华氏度,华氏
    money: dollar=美元,美金 euro=欧元 gbp=英镑 yen=日元 yuan=元,人民币,块钱
    volume: liter=升 ml=毫升
    clock: am=上午 pm=下午
    """
)

ENTITIES = words(
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december english spanish french german chinese japanese korean russian arabic hindi italian "
    "portuguese latin greek dutch turkish swedish polish vietnamese thai hebrew mandarin cantonese urdu bengali tamil "
    "america american usa us uk england britain british india indian china japan france germany spain italy russia "
    "canada canadian mexico mexican brazil australia australian pakistan iran iraq israel egypt turkey korea vietnam "
    "thailand indonesia singapore malaysia philippines nigeria kenya africa african europe european asia asian "
    "argentina chile peru colombia sweden norway denmark finland poland ukraine greece portugal ireland scotland "
    "switzerland austria belgium netherlands hungary cuba afghanistan syria yemen bangladesh nepal taiwan tibet "
    "london paris berlin tokyo delhi mumbai bangalore beijing shanghai moscow rome madrid york chicago boston seattle "
    "texas california florida ohio nevada hawaii alaska virginia georgia houston dallas austin denver atlanta miami "
    "vegas francisco angeles washington philadelphia phoenix portland toronto vancouver sydney melbourne dubai "
    "hyderabad chennai kolkata pune amsterdam vienna prague dublin lisbon athens istanbul cairo lagos nairobi "
    "google facebook amazon apple microsoft twitter instagram whatsapp youtube netflix uber tesla samsung sony nokia "
    "android iphone ios ipad windows linux mac macos ubuntu python java javascript typescript php ruby rust golang "
    "kotlin swift perl scala matlab mysql postgresql postgres mongodb redis oracle sqlite docker kubernetes react "
    "angular vue django flask laravel nodejs tcp udp http https ipv4 ipv6 mars venus jupiter saturn mercury neptune "
    "uranus pluto moon sun gmail yahoo outlook excel word powerpoint photoshop chrome firefox safari visa mastercard "
    "paypal bitcoin ethereum trump obama clinton modi putin hillary einstein newton shakespeare christianity islam "
    "hinduism buddhism judaism christian muslim hindu buddhist jewish catholic"
)
ENTITIES_ZH = (
    "中国",
    "美国",
    "英国",
    "法国",
    "德国",
    "日本",
    "韩国",
    "印度",
    "俄罗斯",
    "加拿大",
    "澳大利亚",
    "巴西",
    "意大利",
    "西班牙",
    "墨西哥",
    "泰国",
    "越南",
    "新加坡",
    "马来西亚",
    "印度尼西亚",
    "菲律宾",
    "埃及",
    "土耳其",
    "伊朗",
    "伊拉克",
    "以色列",
    "朝鲜",
    "蒙古",
    "乌克兰",
    "波兰",
    "瑞典",
    "挪威",
    "芬兰",
    "丹麦",
    "荷兰",
    "比利时",
    "瑞士",
    "希腊",
    "北京",
    "上海",
    "广州",
    "深圳",
    "天津",
    "重庆",
    "杭州",
    "南京",
    "武汉",
    "成都",
    "西安",
    "苏州",
    "长沙",
    "郑州",
    "青岛",
    "大连",
    "沈阳",
    "厦门",
    "宁波",
    "昆明",
    "福州",
    "合肥",
    "济南",
    "哈尔滨",
    "香港",
    "澳门",
    "台湾",
    "广东",
    "浙江",
    "江苏",
    "四川",
    "山东",
    "河南",
    "湖北",
    "湖南",
    "福建",
    "河北",
    "山西",
    "陕西",
    "辽宁",
    "吉林",
    "黑龙江",
    "云南",
    "贵州",
    "广西",
    "海南",
    "甘肃",
    "青海",
    "宁夏",
    "新疆",
    "西藏",
    "内蒙古",
    "安徽",
    "江西",
    "东京",
    "伦敦",
    "巴黎",
    "纽约",
    "柏林",
    "莫斯科",
    "首尔",
    "曼谷",
    "悉尼",
    "罗马",
    "洛杉矶",
    "旧金山",
    "英语",
    "中文",
    "日语",
    "法语",
    "德语",
    "韩语",
    "俄语",
    "西班牙语",
    "阿拉伯语",
    "粤语",
    "普通话",
    "微信",
    "支付宝",
    "淘宝",
    "京东",
    "抖音",
    "微博",
    "百度",
    "腾讯",
    "阿里巴巴",
    "华为",
    "小米",
    "苹果",
    "三星",
    "安卓",
    "谷歌",
    "微软",
    "亚马逊",
    "特斯拉",
    "比亚迪",
    "花呗",
    "借呗",
    "微粒贷",
    "李白",
    "杜甫",
    "苏轼",
    "鲁迅",
    "秦始皇",
    "唐太宗",
    "牛顿",
    "爱因斯坦",
    "长江",
    "黄河",
    "长城",
    "故宫",
    "泰山",
    "黄山",
    "珠穆朗玛峰",
    "星期一",
    "星期二",
    "星期三",
    "星期四",
    "星期五",
    "星期六",
    "星期日",
    "周一",
    "周二",
    "周三",
    "周四",
    "周五",
    "周六",
    "周日",
    "火星",
    "金星",
    "木星",
    "土星",
    "水星",
    "月球",
    "太阳",
    "唐朝",
    "宋朝",
    "元朝",
    "明朝",
    "清朝",
    "汉朝",
    "秦朝",
)

TIME_BOUND = (
    r"today(?:'?s)?|tonight|tomorrow|yesterday|now(?:adays)?|currently|current|latest|newest|recent(?:ly)?|"
    r"this (?:week|month|year|morning|afternoon|evening|weekend|season|quarter)|(?:next|last) (?:week|month|year|night)|"
    r"at the moment|at present|presently|right away|so far|up[- ]to[- ]date|breaking news|these days|as of|just happened|"
    r"live score|real[- ]?time"
)
TIME_BOUND_ZH = [
    "今天",
    "今日",
    "今晚",
    "今早",
    "明天",
    "明日",
    "昨天",
    "昨日",
    "后天",
    "前天",
    "现在",
    "目前",
    "当前",
    "眼下",
    "此刻",
    "刚刚",
    "刚才",
    "最新",
    "最近",
    "近期",
    "近日",
    "实时",
    "即时",
    "这周",
    "本周",
    "上周",
    "下周",
    "这个月",
    "本月",
    "上个月",
    "下个月",
    "今年",
    "明年",
    "去年",
    "本季度",
    "截至",
    "如今",
]


FUNCTION_WORDS = words(
    "a an the of to in on at by for from with and or as is are was were be been being am do does did doing have has "
    "had having it its this that these those there here i you we they he she me my your our their his her them us "
    "him will would can could should shall may might must s t ll re ve d m so if then than but about into over what "
    "which who whom whose when where why how please just also any some very really get got"
)
