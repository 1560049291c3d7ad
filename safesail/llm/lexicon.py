"""Kinds of words that the built-in model knows: plain English word lists, written by hand, fitted to no data."""

KINDS: dict[str, str] = {
    # The name is what explanations say; members are matched by their stem. No name holds a comma.
    "violence": """
        violence violent attack assault beat beaten beating fight fought punch kick stab stabbing hit
        struck strike blow hurt harm injure injury wound wounded kill killed killing murder murderer slay
        massacre shoot shot shooting torture brutal bloody blood victim abuse abusive rape bully thug mob
        riot brawl smash slap choke strangle behead slaughter threaten threat aggressive cruelty cruel
        fatal
    """,
    "weapons": """
        weapon gun rifle pistol firearm knife knives blade sword bomb bomber bombing explosive explosion
        grenade missile rocket ammunition bullet mortar mine shell warhead nuclear arms armed ammo cannon
        dagger detonator landmine shotgun revolver trigger gunman dynamite
    """,
    "terrorism": """
        terror terrorist terrorism extremist extremism radical radicalise radicalised radicalize militant
        jihad jihadist insurgent guerrilla hostage hijack hijacker martyr caliphate bomber cell plot
        separatist supremacist recruit propaganda suicide-bomber fanatic qaeda isis
    """,
    "war": """
        war warfare army troops soldier battle battlefield military invasion invade siege conflict
        ceasefire truce front enemy navy air-strike airstrike artillery tank general commander regiment
        combat civilian refugee peace treaty occupation militia rebel rebellion uprising revolt occupy
        garrison armistice casualty offensive veteran
    """,
    "crime": """
        crime criminal offence offense illegal unlawful theft thief steal stole stolen rob robbery burglar
        burglary smuggle smuggler smuggling traffic trafficker trafficking gang fraud forge forgery
        launder laundering bribe bribery corrupt corruption kidnap arson vandal blackmail extort extortion
        counterfeit culprit suspect perpetrator cartel mafia felony conspiracy accomplice shoplifting
    """,
    "law and courts": """
        law legal court judge jury juror trial verdict lawyer attorney prosecutor prosecute prosecution
        defendant defence convict convicted conviction guilty plead plea sentence sentenced prison jail
        jailed fine fined appeal bail parole testify testimony witness magistrate tribunal statute code
        penalty punish punishment charge charged sue lawsuit legislation regulation rule ban banned
        prohibit rights
    """,
    "police": """
        police policeman policewoman officer detective constable sergeant sheriff arrest arrested detain
        detained detention custody investigate investigation investigator inquiry raid seize seized
        evidence forensic suspect patrol interrogate interrogation warrant informant cop fbi handcuff
        search
    """,
    "politics": """
        politics political politician government minister president premier parliament senate senator
        congress party vote voter voting election elect elected campaign candidate ballot coalition
        opposition democracy democratic republic policy mayor council councillor governor cabinet
        chancellor referendum diplomat ambassador state leader manifesto speech rally lobby
    """,
    "ideology": """
        ideology communism communist socialism socialist capitalism capitalist fascism fascist liberal
        liberalism conservative nationalism nationalist anarchism anarchist marxist marxism nazi populism
        populist feminism feminist libertarian revolution revolutionary propaganda doctrine left-wing
        right-wing leftist
    """,
    "protest": """
        protest protester demonstrate demonstration demonstrator march marcher rally strike petition
        complain complaint object objection demand campaign activist activism boycott dissent resist
        resistance denounce condemn criticise criticize criticism accuse accused accusation blame
    """,
    "religion": """
        religion religious god church mosque temple synagogue prayer pray priest imam rabbi bishop pope
        faith believer belief bible quran koran sacred holy heresy blasphemy sin sect cult prophet
        prophecy worship muslim islam islamic christian christianity jew jewish hindu buddhist catholic
        protestant theology clergy sermon soul heaven hell disciple guru
    """,
    "hate and groups": """
        racist racism race racial hate hateful slur bigot bigotry prejudice discriminate discrimination
        minority immigrant migrant foreigner refugee ethnic ethnicity black white gay lesbian transgender
        trans homosexual disabled disability sexism sexist misogyny women muslim jew stereotype xenophobia
        nationality skin antisemitism antisemitic inferior community
    """,
    "insults": """
        idiot stupid fool moron dumb ugly pathetic loser liar coward insult insulting mock mocking
        ridicule ridiculous disgusting disgrace trash scum pig bastard bitch damn crap worthless useless
        lazy filthy rude jerk hypocrite bully nasty
    """,
    "sex": """
        sex sexual sexually sexuality erotic nude naked porn pornography pornographic orgasm intercourse
        condom contraception contraceptive masturbate masturbation genital penis vagina breast arousal
        arousing libido kiss lust intimate intimacy consent harass harassment molest grope groping
        abortion pregnancy pregnant prostitute prostitution seduce lover
    """,
    "love and partners": """
        love lover boyfriend girlfriend husband wife spouse marriage marry married wedding divorce date
        dating partner couple relationship romance romantic affair kiss hug affection flirt heart fiancé
        bride groom widow
    """,
    "self-harm and death": """
        suicide suicidal self-harm die died dying dead death funeral grave grief mourn corpse overdose
        hang despair hopeless coffin cemetery bury buried memorial starve starvation tragedy tragic deadly
        perish
    """,
    "drugs": """
        drug drugs heroin cocaine cannabis marijuana opioid opium meth amphetamine ecstasy fentanyl
        methadone dealer addict addiction addicted alcohol alcoholic drunk drink smoke smoking tobacco
        nicotine vape pill dose overdose needle syringe rehab naloxone substance weed
    """,
    "health": """
        health healthy doctor nurse hospital clinic patient medicine medical medication drug disease
        illness sick symptom treatment therapy therapist surgery surgeon vaccine vaccination infection
        infected virus cancer diabetes pain ache fever diagnosis diagnose cure heal pharmacy pharmacist
        dose injection hiv std syphilis mental disorder anxiety depression diet
    """,
    "computers": """
        computer software hardware internet online website web password hack hacker hacking cyber malware
        virus phishing ransomware email account login server network data database code coding program
        programmer programming app phone smartphone browser encrypt encryption firewall download upload
        file digital platform algorithm user wifi laptop
    """,
    "privacy": """
        privacy private personal secret surveillance spy spying camera track tracking tracker monitor
        monitoring watch stalk stalker stalking leak leaked breach confidential anonymous identity address
        dox doxxing record records intercept eavesdrop consent
    """,
    "fraud and scams": """
        fraud fraudulent scam scammer con trick deceive deception deceptive fake false swindle dupe lie
        liar lying cheat cheating hoax impostor impersonate pretend bogus forged misleading mislead
        dishonest misinformation rumour rumor conspiracy debunk myth hoaxer
    """,
    "money": """
        money cash pay payment paid price cost dollar euro pound bank loan debt credit invest investment
        investor profit tax income wage salary budget fund fee buy sell sold purchase market stock share
        shares trade cheap expensive wealth rich poor economy economic finance financial cryptocurrency
        bitcoin refund savings insurance rent mortgage
    """,
    "work": """
        work worker job employ employer employee employment boss manager office company business career
        colleague union strike hire hired fire fired salary staff industry factory contract wage
        profession professional firm labour labor
    """,
    "school": """
        school student pupil teacher teach class classroom lesson homework exam university college
        professor lecture study education educate learn degree grade campus graduate tutor kindergarten
        course library
    """,
    "family": """
        family mother father mum mom dad parent son daughter brother sister child children kid baby
        grandmother grandfather grandma grandpa granny uncle aunt cousin nephew niece husband wife twin
        sibling toddler
    """,
    "people": """
        man men woman women person people boy girl child children guy lady gentleman human friend
        neighbour neighbor stranger adult teenager crowd someone somebody everyone everybody anyone
        anybody nobody citizen resident member individual follower visitor guest
    """,
    "titles": """
        mr mrs ms miss dr sir madam lord lady prof professor captain colonel sergeant reverend king queen
        prince princess judge inspector saint president senator uncle aunt
    """,
    "emotions": """
        angry anger rage fear afraid scared frightened terrified sad sadness happy happiness joy hate love
        ashamed shame guilt disgust lonely loneliness anxious worry worried upset cry crying tears proud
        pride jealous envy hope surprised surprise dread panic miss lonely glad sorry feel feeling mood
        nervous relief
    """,
    "thinking": """
        think thought believe know knew known understand realise realize imagine remember forget forgot
        wonder suppose guess doubt consider idea opinion mean reason decide decision sure certain
        certainly maybe perhaps probably expect assume suspect
    """,
    "wanting": """
        want wanted wish hope need would like desire prefer intend plan try tried attempt aim seek ask
        asked demand request beg willing eager refuse refused
    """,
    "speaking": """
        say said says tell told speak spoke talk talked ask asked answer answered reply replied explain
        explained announce announced declare claim claimed argue argued mention call called shout whisper
        admit admitted report reported warn warned promise suggest describe statement quote spokesman
        spokeswoman
    """,
    "help and advice": """
        help support advise advice recommend suggest contact call helpline charity counsel counsellor
        counselling guide guidance tip safe safety protect protection care careful please should emergency
        service assist assistance volunteer
    """,
    "refusing": """
        cannot can't won't refuse refused decline sorry unable unwilling instead never against illegal
        inappropriate harmful unethical policy guideline allowed forbidden
    """,
    "persuasion": """
        convince persuade urge encourage influence recruit pressure manipulate coerce tempt force lure
        entice bait bribe flatter charm
    """,
    "news": """
        news newspaper journalist reporter report reported press media article headline broadcast editor
        story interview publish published television radio magazine blog channel correspondent
    """,
    "secrecy": """
        secret hidden hide hid conceal cover disguise mask anonymous quiet silently underground covert
        undercover code cipher encrypted smuggled
    """,
    "colours": """
        red orange yellow green blue purple violet pink brown black white grey gray golden silver
        turquoise crimson scarlet beige colour color
    """,
    "numbers written out": """
        zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
        thousand million billion dozen half quarter first second third
    """,
    "time": """
        time day week month year hour minute second today tomorrow yesterday tonight morning afternoon
        evening night noon midnight century decade season spring summer autumn winter moment later ago
        since until before after during while when recently soon now early late
    """,
    "dates": """
        january february march april may june july august september october november december monday
        tuesday wednesday thursday friday saturday sunday
    """,
    "places": """
        country city town village street road house home building room bridge river mountain sea island
        coast harbour harbor beach forest park garden square market station airport border region district
        capital province continent europe asia africa america england france germany russia china japan
        india london paris
    """,
    "travel": """
        travel trip journey tour tourist holiday vacation train bus plane flight car drive driver driving
        ship boat ferry bicycle bike ticket passport luggage hotel road motorway traffic ride walk walked
        cycle sail
    """,
    "food": """
        food eat ate eating cook cooking bread cheese meat fish soup sauce salt sugar butter egg milk
        coffee tea wine beer fruit vegetable potato tomato onion garlic pasta rice cake pie recipe dish
        meal dinner lunch breakfast kitchen oven bake fry boil restaurant
    """,
    "nature and animals": """
        animal dog cat horse bird fish cow sheep pig chicken wolf bear fox shark whale bee insect tree
        flower plant leaf leaves grass forest seed soil river lake mountain wild wildlife nature pet seal
        species
    """,
    "weather": """
        weather rain rained snow wind storm thunder lightning sun sunny cloud fog hot cold heat warm flood
        drought hurricane temperature frost ice sky
    """,
    "sport": """
        sport game match team player play goal score win won lose lost cup league race run runner ball
        football soccer tennis cricket rugby swim swimmer coach champion championship olympic medal
        referee stadium training
    """,
    "music and arts": """
        music song sing singer band orchestra concert guitar piano violin drum melody choir conductor
        album dance dancer art artist paint painting film movie actor actress theatre theater novel poem
        poet poetry book author writer play
    """,
    "science": """
        science scientist scientific research researcher experiment theory physics chemistry chemical
        biology molecule atom energy laboratory evidence study star planet galaxy telescope moon orbit
        mathematics equation triangle number proof
    """,
    "quality": """
        good bad great best better worse worst nice terrible awful excellent wonderful beautiful horrible
        perfect poor fine brilliant boring amazing important serious severe simple easy hard difficult
        strong weak
    """,
    "amounts": """
        more most less least many much few several some all every each any none enough too very only just
        almost nearly about half both whole other another
    """,
    "comparison": """
        like as than similar same different such compare comparison unlike better worse equal example
        instance including include
    """,
    "negation": """
        not no never nothing nobody none neither nor without n't don't doesn't didn't isn't wasn't aren't
        can't cannot won't wouldn't shouldn't couldn't hardly
    """,
    "possibility": """
        can could may might must should would will shall able possible impossible perhaps maybe probably
        likely unlikely
    """,
    "questions": """
        what who whom whose which when where why how whether
    """,
    "personal pronouns": """
        i me my mine myself we us our ours you your yours yourself he him his himself she her hers herself
        they them their theirs themselves it its itself
    """,
    "linking words": """
        and or but nor yet so because although though however therefore while whereas if unless then that
        which who
    """,
    "prepositions": """
        of in on at to for from by with about against between into through during before after above below
        over under near without within along among across behind beyond
    """,
    "articles": """
        a an the this that these those
    """,
    "forms of be and have": """
        be is are was were been being am have has had having do does did
    """,
}
"""Name to members, separated by spaces."""

GRAMMAR = frozenset(
    {
        "articles",
        "prepositions",
        "linking words",
        "personal pronouns",
        "forms of be and have",
        "questions",
        "possibility",
        "amounts",
        "comparison",
        "negation",
    }
)
"""Kinds of function words: no topic, and no keys in an explanation that somebody else wrote."""
